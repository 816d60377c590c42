"""Packets in order again, against sorting; timestamps against a plain count."""

from __future__ import annotations

import numpy as np
from edgeemo_runtime.serve.reorder import Reorder
from edgeemo_runtime.serve.rtp import MediaClock
from hypothesis import given
from hypothesis import strategies as st


@given(first=st.integers(0, 65535), count=st.integers(1, 80), seed=st.integers(0, 10**6), doubled=st.booleans())
def test_packets_that_change_places_come_out_in_order(first: int, count: int, seed: int, doubled: bool) -> None:
    """Any packet up to 5 places late, twice or once, across the wrap: each comes out once and in order, the first one's place
    being where a call begins."""
    rng = np.random.default_rng(seed)
    order = [0, *(1 + np.argsort(np.arange(count) + rng.uniform(0, 5, count))).tolist()]
    out: list[object] = []
    reorder = Reorder(0.06)
    for i, number in enumerate(order):
        for _ in range(1 + (doubled and i % 3 == 0)):
            out += reorder.push((first + number) % 65536, number, 0.001 * i)
    out += reorder.overdue(1e9)
    assert out == list(range(count + 1))
    assert reorder.lost == 0


def test_what_is_missing_is_waited_for_and_then_given_up() -> None:
    reorder = Reorder(0.06)
    assert reorder.push(10, "a", 0.00) == ["a"]
    assert reorder.push(12, "c", 0.02) == []
    assert reorder.push(13, "d", 0.04) == []
    assert reorder.overdue(0.079) == []
    assert reorder.overdue(0.081) == ["c", "d"]
    assert reorder.lost == 1
    assert reorder.push(11, "b", 0.09) == []  # too late
    assert reorder.late == 1
    assert reorder.push(14, "e", 0.10) == ["e"]


def test_two_packets_in_a_row_are_another_source() -> None:
    reorder = Reorder(0.06)
    assert reorder.push(100, 0, 0.0) == [0]
    assert reorder.push(40_000, 1, 0.02) == []  # a stray
    assert reorder.push(101, 2, 0.04) == [2]
    assert reorder.push(30_000, 3, 0.06) == []
    assert reorder.push(30_001, 4, 0.08) == [4]
    assert reorder.push(30_002, 5, 0.10) == [5]
    assert reorder.restarts == 1


@given(first=st.integers(0, 2**32 - 1), gaps=st.lists(st.integers(0, 20), max_size=30))
def test_a_count_that_wraps_anywhere_goes_on(first: int, gaps: list[int]) -> None:
    """Packets of 160 samples with any number missing between them: places are those of a plain count from 0."""
    clock, stamp, true = MediaClock(8000), first, 0
    assert clock.place(stamp, 160, 0.0) == 0
    for gap in gaps:
        stamp, true = (stamp + 160 * (1 + gap)) % 2**32, true + 160 * (1 + gap)
        assert clock.place(stamp, 160, 0.0) == (true if gap else None)
    assert clock.count == true + 160


def test_a_source_that_counts_anew_goes_on_by_the_clock() -> None:
    clock = MediaClock(8000)
    assert clock.place(1000, 160, 0.0) == 0
    assert clock.place(3_000_000_000, 160, 0.02) is None  # without a pause
    assert clock.place(3_000_000_160, 160, 0.04) is None
    assert clock.place(7, 160, 2.06) == 480 + 16000  # 2.02 s later, of which the packet itself is 0.02
    assert clock.place(167, 160, 2.08) is None
