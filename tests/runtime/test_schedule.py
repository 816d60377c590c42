from __future__ import annotations

import numpy as np
import pytest
from edgeemo_runtime.capacity import most_streams, plan, simulate
from edgeemo_runtime.schedule import PHASES, Scheduler, quietest_lead
from hypothesis import given, settings
from hypothesis import strategies as st

COST = np.array([0.0, *(0.001 + 0.0005 * n for n in range(1, 17))])  # 1 ms and half a millisecond a stream


def test_a_batch_waits_for_half_the_budget_less_its_cost() -> None:
    s = Scheduler(COST)
    assert s.start_at(np.array([])) == float("inf")
    assert s.start_at(np.array([5.0])) == pytest.approx(5.0 + 0.01 - 0.0015)
    assert s.start_at(np.array([5.0, 5.004])) == pytest.approx(5.0 + 0.01 - 0.002)


def test_a_batch_as_large_as_may_be_starts_at_once() -> None:
    s = Scheduler(np.arange(17) * 0.002)
    assert s.largest == 5
    assert s.start_at(np.linspace(1, 1.001, 5)) == 1.0


def test_a_batch_dearer_than_the_budget_is_one_stream() -> None:
    assert Scheduler(np.arange(17) * 0.05).largest == 1


def test_costs_are_learned() -> None:
    s = Scheduler()
    s.observe(4, 0.004)
    np.testing.assert_allclose(s.cost_s, np.arange(17) * 0.001)
    for _ in range(300):
        s.observe(8, 0.012)
    assert s.cost_s[8] == pytest.approx(0.012, rel=1e-3)
    assert (np.diff(s.cost_s) >= 0).all()


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(1, 16), st.floats(1e-4, 3.0)), max_size=12), st.integers(1, 16))
def test_slow_batches_are_forgotten(slow: list[tuple[int, float]], size: int) -> None:
    """Whatever was slow for a while: batches of the size that is chosen, at their true cost again, bring the first sizes back."""
    s = Scheduler(COST)
    for n, seconds in slow:
        s.observe(n, seconds)
    for _ in range(2000):
        n = s.size(np.zeros(size), 0.0)
        s.observe(n, COST[n])
    assert s.largest == Scheduler(COST).largest or size < s.largest


def test_late_batches_are_as_large_as_they_can_be() -> None:
    s = Scheduler(np.arange(17) * 0.002)
    assert s.size(np.zeros(40), 0.0) == s.largest == 5
    assert s.size(np.zeros(40), 0.02) == 16
    assert s.size(np.zeros(3), 0.02) == 3


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(0, 10**6))
def test_with_time_to_spare_nobody_is_late(streams: int, seed: int) -> None:
    """60 streams at these costs are under a third of a core: the bound of the module's docstring holds for every answer."""
    latency, busy, batch = simulate(COST, streams, 2.0, seed)
    assert busy < 0.5
    assert batch >= 1
    assert latency.max() <= 0.02 + 1e-9
    assert latency.min() > 0


@pytest.mark.slow
def test_more_streams_than_time_are_found_out() -> None:
    most = most_streams(COST, 4.0)
    assert plan(COST, most, 4.0).fits
    assert not plan(COST, most + 1, 4.0).fits
    # 16 streams in 9 ms are 284 in a hop; nobody can do more than that.
    assert 100 < most <= 284


def test_even_phases_hold_more_than_random_ones() -> None:
    """At nine tenths of a core, where clumps of random phases are what makes answers late."""
    cost = np.array([0.0, *(0.0018 + 0.00103 * n for n in range(1, 17))])
    random, even = plan(cost, 116, 6.0), plan(cost, 116, 6.0, spread=True)
    assert even.p99_ms < random.p99_ms - 2
    assert even.utilisation > 0.9


@given(st.lists(st.integers(0, 20), min_size=PHASES, max_size=PHASES), st.floats(0, 0.999))
def test_the_lead_ends_hops_where_the_fewest_others_do(counts: list[int], phase: float) -> None:
    lead = quietest_lead(np.array(counts), phase)
    assert 0 <= lead < PHASES
    assert counts[(int(phase * PHASES) - lead) % PHASES] == min(counts)
