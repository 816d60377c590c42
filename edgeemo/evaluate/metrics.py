"""Scores of clip-level answers. Plain numpy: the definitions are short and the reports state them."""

from __future__ import annotations

import numpy as np


def confusion_matrix(truth: np.ndarray, answer: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes) int64: row = true label, column = answer."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (truth, answer), 1)
    return counts


def per_class_f1(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class, float64; 0 for a class that is there but never hit, NaN for one in neither truth nor answers."""
    hits = np.diag(confusion).astype(float)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.divide(2 * hits, total, out=np.full(len(hits), np.nan), where=total > 0)


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the classes that occur in the truth (a corpus without surprise is not charged for surprise)."""
    present = confusion.sum(axis=1) > 0
    return float(per_class_f1(confusion)[present].mean()) if present.any() else 0.0


def accuracy(confusion: np.ndarray) -> float:
    return float(np.trace(confusion) / max(1, confusion.sum()))


def jump_rate(labels: list[np.ndarray]) -> float:
    """Share of steps whose label differs from that of the step before, over all streams; 0.0 without two steps."""
    changes = sum(int(np.count_nonzero(x[1:] != x[:-1])) for x in labels)
    pairs = sum(max(0, len(x) - 1) for x in labels)
    return changes / pairs if pairs else 0.0


def confidence_tenths(sure: np.ndarray) -> np.ndarray:
    """The tenth of [0, 1], 0 to 9, that each confidence lies in."""
    return np.minimum((sure * 10).astype(int), 9)


def calibration_error(probabilities: np.ndarray, label: np.ndarray) -> float:
    """Expected calibration error of the likeliest label, ten bins of equal width (Naeini et al. 2015)."""
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == label
    place = confidence_tenths(sure)
    gaps = [abs(sure[place == i].mean() - right[place == i].mean()) * (place == i).mean() for i in np.unique(place)]
    return float(sum(gaps))
