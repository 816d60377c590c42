from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeemo.quantize.thresholds.kl import expand, kl_divergence, threshold_bins


def plain_threshold(histogram: list[int], levels: int) -> int:
    """The definition written out with loops, as slow as it is plain."""
    counts = [float(c) for c in histogram]
    counts[0] = min(counts[0], counts[1])
    best, best_at = float("inf"), len(counts)
    for i in range(levels, len(counts) + 1):
        kept = counts[:i]
        if kept[-1] == 0 and sum(counts[i:]) > 0:
            continue
        p = kept[:]
        p[-1] += sum(counts[i:])
        q = [0.0] * i
        for level in range(levels):
            inside = range(level * i // levels, (level + 1) * i // levels)
            filled = [b for b in inside if kept[b] > 0]
            for b in filled:
                q[b] = sum(kept[c] for c in inside) / len(filled)
        divergence = sum(a / sum(p) * np.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence < best - 1e-12:
            best, best_at = divergence, i
    return best_at


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=9, max_size=40), st.sampled_from([4, 8]))
def test_matches_the_plain_definition(histogram: list[int], levels: int) -> None:
    counts = np.array(histogram)
    if counts.sum() == 0 or (counts[1:].sum() == 0):
        assert threshold_bins(counts, levels) == len(counts)
    else:
        assert threshold_bins(counts, levels) == plain_threshold(histogram, levels)


def test_worked_example_of_the_docstring() -> None:
    assert kl_divergence(np.array([1, 0, 2, 19.0]), np.array([1, 0, 2.5, 2.5])) == pytest.approx(0.432, abs=1e-3)


def test_published_example_of_merging_and_expanding() -> None:
    """Migacz's slides (GTC 2017): eight bins merged to two, 6 and 16, and expanded again with the empty bin kept empty."""
    np.testing.assert_array_equal(expand(np.array([1, 0, 2, 3, 5, 3, 1, 7.0]), 2), [2, 0, 2, 2, 4, 4, 4, 4])


@given(st.lists(st.integers(0, 50), min_size=9, max_size=300), st.sampled_from([2, 16, 1024]))
def test_the_same_values_seen_again_move_nothing(histogram: list[int], times: int) -> None:
    counts = np.array(histogram)
    assert threshold_bins(counts * times, 8) == threshold_bins(counts, 8)


@given(st.lists(st.integers(0, 50), min_size=9, max_size=40))
def test_a_threshold_lies_behind_a_bin_with_values_or_at_the_end(histogram: list[int]) -> None:
    kept = threshold_bins(np.array(histogram), 8)
    assert kept == len(histogram) or histogram[kept - 1] > 0 or sum(histogram[kept:]) == 0


def test_an_outlier_is_clipped_and_a_full_range_is_not() -> None:
    rng = np.random.default_rng(0)
    bulk = np.histogram(np.abs(rng.normal(0, 0.05, 200_000)), bins=2048, range=(0, 1))[0]
    bulk[-1] += 1  # one value twenty standard deviations out
    assert threshold_bins(bulk) < 700
    uniform = np.full(2048, 1000)
    assert threshold_bins(uniform) == 2048


def test_a_spike_at_zero_does_not_pull_the_threshold_down() -> None:
    rng = np.random.default_rng(0)
    counts = np.histogram(np.abs(rng.normal(0, 0.25, 100_000)), bins=2048, range=(0, 1))[0]
    spiked = counts.copy()
    spiked[0] += 10_000_000
    assert abs(threshold_bins(spiked) - threshold_bins(counts)) <= 2
