"""The KL threshold: where to clip a tensor so that 128 int8 levels tell most about its distribution.

Migacz, "8-bit inference with TensorRT" (GTC 2017), on a histogram of absolute values. For every candidate threshold of i bins:

    P = the first i bins, all mass beyond them folded into the last one       (what clipping leaves)
    Q = the same i bins without the folded tail, merged to 128 levels, each level's mass spread evenly over its non-empty bins

and the threshold with the smallest KL(P || Q) wins. Folding the tail into P but not into Q is what makes clipping cost something.
A small example, 8 bins to 2 levels, histogram 1 0 2 3 5 3 1 7, candidate i = 4: P = 1 0 2 19 (3 + the tail 16); the four bins
merge to levels (1, 0) and (2, 3), so Q = 1 0 2.5 2.5; normalised, KL(P || Q) = 0.432: the tail is too heavy to clip there.

Three guards. Where the tail would be folded into an empty bin KL is infinite, so a threshold lies behind a bin with values;
smoothing that bin by a count, as is often done, would let the threshold depend on how often the same values were seen. A spike at
zero (silence, dead units) says nothing of the range: bin 0 is lowered to its neighbour. A threshold never goes below the first
128 bins, where every level still has a bin of its own.
"""

from __future__ import annotations

import numpy as np

from edgeemo.quantize.thresholds.histogram import LEVELS


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


def threshold_bins(histogram: np.ndarray, levels: int = LEVELS) -> int:
    """Number of leading bins to keep, in [levels, len(histogram)], of a histogram of absolute values.

    An empty histogram keeps everything. Deterministic: the smallest threshold wins a tie.
    """
    counts = np.asarray(histogram, dtype=np.float64).copy()
    if len(counts) <= levels or counts.sum() == 0:
        return len(counts)
    counts[0] = min(counts[0], counts[1])
    if counts.sum() == 0:  # nothing but zeros
        return len(counts)
    tail = counts.sum() - np.cumsum(counts)
    best, best_at = float("inf"), len(counts)
    for i in range(levels, len(counts) + 1):
        kept = counts[:i]
        if kept[-1] == 0 and tail[i - 1] > 0:
            continue
        p = kept.copy()
        p[-1] += tail[i - 1]
        divergence = kl_divergence(p, expand(kept, levels))
        if divergence < best - 1e-12:
            best, best_at = divergence, i
    return best_at
