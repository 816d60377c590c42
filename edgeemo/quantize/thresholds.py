"""Where to clip a tensor, from a histogram of its absolute values: every way by its name, KL (kl.py) being the default.

All return the number of leading bins to keep, in [levels, bins]: below ``levels`` bins no int8 level would have a bin of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeemo.quantize.kl import LEVELS, kl_threshold_bins

PERCENTILE = 99.99  # of the absolute values kept


def min_max_bins(histogram: np.ndarray, levels: int = LEVELS) -> int:
    """Everything: nothing is clipped, and one outlier costs all others their resolution."""
    return len(histogram)


def percentile_bins(histogram: np.ndarray, levels: int = LEVELS) -> int:
    """The fewest bins that hold PERCENTILE % of the values; all of an empty histogram.

    9,999 values in bin 3 and one in bin 2000: four bins hold 99.99 %, so the 128 that levels need are kept.
    """
    total = np.cumsum(histogram, dtype=np.float64)
    if total[-1] == 0:
        return len(histogram)
    fewest = int(np.searchsorted(total, total[-1] * PERCENTILE / 100)) + 1
    return min(max(fewest, levels), len(histogram))


def mse_bins(histogram: np.ndarray, levels: int = LEVELS) -> int:
    """The threshold with the smallest squared error of quantizing the bins' centres, clipped ones included; the smallest of equal
    ones. Zeros cost nothing whatever the threshold, so bin 0 is left out. All of an empty histogram.

    Sung, Shin and Hwang, "Resiliency of Deep Neural Networks under Quantization" (2015), choose steps so.
    """
    counts = np.asarray(histogram, dtype=np.float64)[1:]
    used = np.flatnonzero(counts)
    if len(used) == 0 or len(histogram) <= levels:
        return len(histogram)
    centre, weight = used + 1.5, counts[used]
    candidates = np.arange(levels, len(histogram) + 1)
    errors = np.empty(len(candidates))
    for row, kept in enumerate(candidates):
        step = kept / (levels - 1)
        level = np.minimum(np.rint(centre / step), levels - 1)
        errors[row] = (weight * (centre - level * step) ** 2).sum()
    return int(candidates[errors.argmin()])


THRESHOLDS: dict[str, Callable[..., int]] = {
    "kl": kl_threshold_bins,
    "mse": mse_bins,
    "percentile": percentile_bins,
    "min-max": min_max_bins,
}
