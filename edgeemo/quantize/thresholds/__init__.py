"""Methods that choose where to clip a tensor, from a histogram of its absolute values; by the names that recipes use.

All return the number of leading bins to keep, in [levels, bins]: below ``levels`` bins no int8 level would have a bin of its own.
A method is one file and one entry here; recipes, the command line and analyze follow.
"""

from __future__ import annotations

from collections.abc import Callable

from edgeemo.quantize.thresholds.kl import kl_threshold_bins
from edgeemo.quantize.thresholds.min_max import min_max_bins
from edgeemo.quantize.thresholds.mse import mse_bins
from edgeemo.quantize.thresholds.percentile import percentile_bins

THRESHOLDS: dict[str, Callable[..., int]] = {
    "kl": kl_threshold_bins,
    "mse": mse_bins,
    "percentile": percentile_bins,
    "min-max": min_max_bins,
}
