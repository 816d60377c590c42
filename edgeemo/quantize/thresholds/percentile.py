"""The threshold that keeps a fixed share of the values."""

from __future__ import annotations

import numpy as np

from edgeemo.quantize.thresholds.histogram import LEVELS

PERCENTILE = 99.99  # of the absolute values kept


def threshold_bins(histogram: np.ndarray, levels: int = LEVELS) -> int:
    """The fewest bins that hold PERCENTILE % of the values; all of an empty histogram.

    9,999 values in bin 3 and one in bin 2000: four bins hold 99.99 %, so the 128 that levels need are kept.
    """
    total = np.cumsum(histogram, dtype=np.float64)
    if total[-1] == 0:
        return len(histogram)
    fewest = int(np.searchsorted(total, total[-1] * PERCENTILE / 100)) + 1
    return min(max(fewest, levels), len(histogram))
