"""The KL threshold: where to clip a tensor so that 128 int8 levels tell most about its distribution.

Migacz, "8-bit inference with TensorRT" (GTC 2017), on a histogram of absolute values. For every candidate threshold of i bins:

    P = the first i bins, all mass beyond them folded into the last one       (what clipping leaves)
    Q = the same i bins without the folded tail, merged to 128 levels, each level's mass spread evenly over its non-empty bins

and the threshold with the smallest KL(P || Q) wins. Folding the tail into P but not into Q is what makes clipping cost something.
A small example, 8 bins to 2 levels, histogram 1 0 2 3 5 3 1 7, candidate i = 4: P = 1 0 2 19 (3 + the tail 16); the four bins
merge to levels (1, 0) and (2, 3), so Q = 1 0 2.5 2.5; normalised, KL(P || Q) = 0.432: the tail is too heavy to clip there.

Divergence alone clips too much: half of what follows a GELU, or more, is crowded next to zero, and telling those values apart is
worth more to it than the tail, whose values are what products are made of (docs/quantization.md has figures of this and of the
published variants). So it chooses among the thresholds whose squared error is within SLACK of the smallest there is: over that
range squares hardly distinguish one from the other, and no tensor gets more than SLACK noisier than by `mse`.

Where the tail would be folded into an empty bin KL is infinite, so a threshold lies behind a bin with values, or where the
squared error is smallest if no threshold of the range does; smoothing that bin by a count, as is often done, would let the
threshold depend on how often the same values were seen. A spike at zero (silence, dead units) says nothing of the range: bin 0 is
lowered to its neighbour. A threshold never goes below the first 128 bins, where every level still has a bin of its own.
"""

from __future__ import annotations

import numpy as np

from edgeemo.quantize.thresholds.histogram import LEVELS
from edgeemo.quantize.thresholds.mse import squared_errors

SLACK = 0.1  # of the smallest squared error (0.4 dB)


def expand(counts: np.ndarray, levels: int) -> np.ndarray:
    """Merges ``counts`` to ``levels`` and spreads each level evenly over its non-empty bins."""
    edges = (np.arange(levels) * len(counts)) // levels
    sums = np.add.reduceat(counts, edges)
    filled = np.add.reduceat((counts > 0).astype(np.float64), edges)
    level_of = np.repeat(np.arange(levels), np.diff(np.append(edges, len(counts))))
    return np.where(counts > 0, (sums / np.maximum(filled, 1.0))[level_of], 0.0)


def kl_divergence(p: np.ndarray, q: np.ndarray) -> float:
    """sum p log(p / q) of two histograms, each normalised; infinite where p has mass and q none."""
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    there = p > 0
    if (q[there] <= 0).any():
        return float("inf")
    return float((p[there] * np.log(p[there] / q[there])).sum())


def divergence(counts: np.ndarray, kept: int, levels: int = LEVELS) -> float:
    """KL(P || Q) of the module's docstring, in nats, where the first ``kept`` bins are kept; infinite where the tail would be
    folded into an empty bin."""
    p = counts[:kept].copy()
    p[-1] += counts[kept:].sum()
    return kl_divergence(p, expand(counts[:kept], levels))


def threshold_bins(histogram: np.ndarray, levels: int = LEVELS) -> int:
    """Number of leading bins to keep, in [levels, len(histogram)], of a histogram of absolute values.

    An empty histogram keeps everything. Deterministic: the smallest threshold wins a tie.
    """
    counts = np.asarray(histogram, dtype=np.float64).copy()
    if len(counts) <= levels or not counts[1:].any():  # nothing, or nothing but zeros
        return len(counts)
    counts[0] = min(counts[0], counts[1])
    errors = squared_errors(counts, levels)
    best, best_at = float("inf"), levels + int(errors.argmin())
    for i in levels + np.flatnonzero(errors <= (1 + SLACK) * errors.min()):
        found = divergence(counts, int(i), levels)
        if found < best - 1e-12:
            best, best_at = found, int(i)
    return best_at
