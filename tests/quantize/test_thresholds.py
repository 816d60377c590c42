from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeemo.quantize.thresholds import THRESHOLDS

LEVELS = 8
histograms = st.lists(st.integers(0, 50), min_size=9, max_size=40)


def plain_mse(histogram: list[int]) -> int:
    """The definition with loops."""
    best, best_at = float("inf"), len(histogram)
    for kept in range(LEVELS, len(histogram) + 1):
        step, error = kept / (LEVELS - 1), 0.0
        for at, count in enumerate(histogram):
            if at > 0:
                level = min(round((at + 0.5) / step), LEVELS - 1)
                error += count * (at + 0.5 - level * step) ** 2
        if error < best - 1e-9:
            best, best_at = error, kept
    return best_at


@given(histograms)
def test_mse_is_the_plain_definition(histogram: list[int]) -> None:
    found = THRESHOLDS["mse"](np.array(histogram), LEVELS)
    if sum(histogram[1:]) == 0:
        assert found == len(histogram)
    else:
        assert found == plain_mse(histogram)


@given(histograms)
def test_percentile_holds_what_it_says_and_one_bin_less_does_not(histogram: list[int]) -> None:
    kept = THRESHOLDS["percentile"](np.array(histogram), LEVELS)
    assert LEVELS <= kept <= len(histogram)
    if sum(histogram):
        assert sum(histogram[:kept]) >= 0.9999 * sum(histogram)
        assert kept == LEVELS or sum(histogram[: kept - 1]) < 0.9999 * sum(histogram)


def test_the_modules_of_the_package_are_the_methods() -> None:
    assert set(THRESHOLDS) >= {"kl", "min-max", "mse", "percentile"} and "histogram" not in THRESHOLDS


@pytest.mark.parametrize("name", THRESHOLDS)
@given(histogram=histograms)
def test_every_way_keeps_from_levels_to_all_bins(name: str, histogram: list[int]) -> None:
    assert LEVELS <= THRESHOLDS[name](np.array(histogram), LEVELS) <= len(histogram)


def test_an_outlier_costs_min_max_its_resolution_and_the_others_not() -> None:
    rng = np.random.default_rng(0)
    counts = np.histogram(np.abs(rng.normal(0, 0.05, 200_000)), bins=2048, range=(0, 1))[0]
    counts[-1] += 1
    kept = {name: find(counts) for name, find in THRESHOLDS.items()}
    assert kept.pop("min-max") == 2048
    assert max(kept.values()) < 1100  # of these, squares mind the outlier most


def test_worked_example_of_percentile() -> None:
    counts = np.zeros(2048, dtype=np.int64)
    counts[3], counts[2000] = 9999, 1
    assert THRESHOLDS["percentile"](counts) == 128
    counts[3] = 4000
    assert THRESHOLDS["percentile"](counts) == 2001
