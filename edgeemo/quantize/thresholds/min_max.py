"""No clipping: the threshold is the largest magnitude seen."""

from __future__ import annotations

import numpy as np

from edgeemo.quantize.thresholds.histogram import LEVELS


def threshold_bins(histogram: np.ndarray, levels: int = LEVELS) -> int:
    """Everything: nothing is clipped, and one outlier costs all others their resolution."""
    return len(histogram)
