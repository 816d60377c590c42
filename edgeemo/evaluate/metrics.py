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
