from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeemo.quantize.calibration.observer import Observer
from edgeemo.quantize.thresholds.histogram import LEVELS
from edgeemo.quantize.thresholds.kl import SLACK, divergence, expand, kl_divergence, threshold_bins
from edgeemo.quantize.thresholds.mse import squared_errors
from edgeemo.quantize.thresholds.mse import threshold_bins as min_error


def plain_error(counts: list[float], kept: int, levels: int) -> float:
    step, error = kept / (levels - 1), 0.0
    for at, count in enumerate(counts[1:], 1):
        level = min(round((at + 0.5) / step), levels - 1)
        error += count * (at + 0.5 - level * step) ** 2
    return error


def plain_divergence(counts: list[float], kept: int, levels: int) -> float:
    p = counts[:kept]
    p[-1] += sum(counts[kept:])
    q = [0.0] * kept
    for level in range(levels):
        inside = range(level * kept // levels, (level + 1) * kept // levels)
        filled = [b for b in inside if counts[b] > 0]
        for b in filled:
            q[b] = sum(counts[c] for c in inside) / len(filled)
    if p[-1] > 0 and q[-1] == 0:
        return float("inf")
    return float(sum(a / sum(p) * np.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True) if a > 0))


def plain_threshold(histogram: list[int], levels: int) -> int:
    """The definition written out with loops, as slow as it is plain."""
    counts = [float(c) for c in histogram]
    counts[0] = min(counts[0], counts[1])
    errors = {i: plain_error(counts, i, levels) for i in range(levels, len(counts) + 1)}
    least = min(errors.values())
    best, best_at = float("inf"), min(i for i in errors if errors[i] == least)
    for i in (i for i in errors if errors[i] <= (1 + SLACK) * least):
        if (found := plain_divergence(counts, i, levels)) < best - 1e-12:
            best, best_at = found, i
    return best_at


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=9, max_size=40), st.sampled_from([4, 8]))
def test_matches_the_plain_definition(histogram: list[int], levels: int) -> None:
    counts = np.array(histogram)
    if counts[1:].sum() == 0:
        assert threshold_bins(counts, levels) == len(counts)
    else:
        assert threshold_bins(counts, levels) == plain_threshold(histogram, levels)


def test_worked_example_of_the_docstring() -> None:
    assert divergence(np.array([1, 0, 2, 3, 5, 3, 1, 7.0]), 4, 2) == pytest.approx(0.432, abs=1e-3)
    assert kl_divergence(np.array([1, 0, 2, 19.0]), np.array([1, 0, 2.5, 2.5])) == pytest.approx(0.432, abs=1e-3)


def test_published_example_of_merging_and_expanding() -> None:
    """Migacz's slides (GTC 2017): eight bins merged to two, 6 and 16, and expanded again with the empty bin kept empty."""
    np.testing.assert_array_equal(expand(np.array([1, 0, 2, 3, 5, 3, 1, 7.0]), 2), [2, 0, 2, 2, 4, 4, 4, 4])


@given(st.lists(st.integers(0, 50), min_size=9, max_size=300), st.sampled_from([2, 16, 1024]))
def test_the_same_values_seen_again_move_nothing(histogram: list[int], times: int) -> None:
    counts = np.array(histogram)
    assert threshold_bins(counts * times, 8) == threshold_bins(counts, 8)


@given(st.lists(st.integers(0, 50), min_size=9, max_size=40))
def test_a_threshold_lies_behind_a_bin_with_values_or_where_the_error_is_least(histogram: list[int]) -> None:
    counts = np.array(histogram)
    kept = threshold_bins(counts, 8)
    assert kept in (len(histogram), min_error(counts, 8)) or counts[kept - 1] > 0 or counts[kept:].sum() == 0


@given(st.lists(st.integers(0, 50), min_size=9, max_size=300))
def test_no_tensor_is_noisier_than_by_mse_beyond_the_slack(histogram: list[int]) -> None:
    counts = np.array(histogram)
    errors = squared_errors(counts, 8)
    assert errors[threshold_bins(counts, 8) - 8] <= (1 + SLACK) * errors.min() * (1 + 1e-12)


def bins_of(values: np.ndarray) -> np.ndarray:
    observer = Observer("x")
    observer.observe_range(values)
    observer.observe_histogram(values)
    return observer.histogram


rng = np.random.default_rng(0)
NORMAL = rng.normal(0, 1, 400_000)
DISTRIBUTIONS = {  # with the range in which the threshold is, over the tensor's unit
    "uniform": (rng.uniform(-1, 1, 400_000), 0.99, 1.0),
    "normal": (NORMAL, 3.6, 4.7),  # 4.0 has the smallest squared error of 127 levels
    "laplace": (rng.laplace(0, 1, 400_000), 8.5, 12.0),
    "student, 4 degrees": (rng.standard_t(4, 400_000), 15.0, 60.0),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_thresholds_of_known_distributions(name: str) -> None:
    values, low, high = DISTRIBUTIONS[name]
    assert low <= threshold_bins(bins_of(values)) / 2048 * np.abs(values).max() <= high


@given(st.integers(-60, 60))
@settings(deadline=None, max_examples=5)
def test_a_tensor_times_two_has_twice_the_threshold(power: int) -> None:
    values = NORMAL[:20_000].astype(np.float32)
    assert threshold_bins(bins_of(values * np.float32(2.0**power))) == threshold_bins(bins_of(values))


def test_divergence_alone_would_clip_what_follows_a_gelu() -> None:
    """The reason for the slack: a wide normal through tanh's GELU, as behind a transformer's first feed-forward product."""
    x = np.concatenate([NORMAL[:390_000] * 0.3 - 0.4, NORMAL[390_000:] * 2])
    counts = bins_of(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))).astype(np.float64)
    counts[0] = min(counts[0], counts[1])
    errors = squared_errors(counts)
    alone = LEVELS + int(np.argmin([divergence(counts, i) for i in range(LEVELS, len(counts) + 1)]))
    assert errors[alone - LEVELS] > 2 * errors.min()
    assert errors[threshold_bins(counts) - LEVELS] <= (1 + SLACK) * errors.min()


def test_an_outlier_is_clipped_and_a_full_range_is_not() -> None:
    bulk = np.histogram(np.abs(NORMAL[:200_000] * 0.05), bins=2048, range=(0, 1))[0]
    bulk[-1] += 1  # one value twenty standard deviations out
    assert threshold_bins(bulk) < 1100  # squares mind it, divergence alone would clip at 700
    uniform = np.full(2048, 1000)
    assert threshold_bins(uniform) == 2048


def test_a_spike_at_zero_does_not_pull_the_threshold_down() -> None:
    counts = np.histogram(np.abs(NORMAL[:100_000] * 0.25), bins=2048, range=(0, 1))[0]
    spiked = counts.copy()
    spiked[0] += 10_000_000
    assert abs(threshold_bins(spiked) - threshold_bins(counts)) <= 2
