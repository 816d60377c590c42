"""The threshold of the smallest squared error."""

from __future__ import annotations

import numpy as np

from edgeemo.quantize.thresholds.histogram import LEVELS


def squared_errors(histogram: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """(len(histogram) - levels + 1,) float64: the squared error, in bins, of quantizing the bins' centres, clipped ones included,
    for every threshold from ``levels`` bins to all. Zeros cost nothing whatever the threshold, so bin 0 is left out."""
    counts = np.asarray(histogram, dtype=np.float64)[1:]
    used = np.flatnonzero(counts)
    centre, weight = used + 1.5, counts[used]
    candidates = np.arange(levels, len(histogram) + 1)
    errors = np.empty(len(candidates))
    for row, kept in enumerate(candidates):
        step = kept / (levels - 1)
        level = np.minimum(np.rint(centre / step), levels - 1)
        errors[row] = (weight * (centre - level * step) ** 2).sum()
    return errors


def threshold_bins(histogram: np.ndarray, levels: int = LEVELS) -> int:
    """The threshold with the smallest squared error, the smallest of equal ones; all of an empty histogram.

    Sung, Shin and Hwang, "Resiliency of Deep Neural Networks under Quantization" (2015), choose steps so.
    """
    if len(histogram) <= levels or not np.any(histogram[1:]):
        return len(histogram)
    return levels + int(squared_errors(histogram, levels).argmin())
