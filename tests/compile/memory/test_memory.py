"""Layout of memory by itself: nothing overlaps that lives at one time, and nothing is larger than it must be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeemo.compile.memory.arena import ALIGN, Arena
from edgeemo.compile.memory.states import StateLayout
from edgeemo.compile.memory.weights import WeightBlob


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5000)), max_size=60))
def test_live_tensors_do_not_overlap(actions: list[tuple[bool, int]]) -> None:
    arena, live = Arena(), dict[int, int]()
    for take, number in actions:
        if take or not live:
            at = arena.allocate(number)
            assert at % ALIGN == 0
            assert all(at >= start + size or at + number <= start for start, size in live.items())
            live[at] = max(number, 1)
        else:
            at = sorted(live)[number % len(live)]
            arena.free(at)
            del live[at]
        assert arena.peak >= max((start + size for start, size in live.items()), default=0)


def test_freed_memory_is_used_again() -> None:
    arena = Arena()
    first, second = arena.allocate(100), arena.allocate(100)
    arena.free(first)
    assert arena.allocate(64) == first and arena.peak == 256
    with pytest.raises(KeyError):
        arena.free(64)
    arena.free(second)


def test_equal_constants_are_stored_once() -> None:
    blob = WeightBlob(ahead=100)
    a, b = np.arange(5, dtype=np.float32), np.arange(5, dtype=np.int32)
    places = [blob.add(x) for x in (a, b, a.copy(), np.arange(5, dtype=np.float32).reshape(5, 1))]
    assert places == [0, ALIGN, 0, 0]
    data = blob.finish()
    np.testing.assert_array_equal(np.frombuffer(data[:20], np.float32), a)
    assert len(data) == 2 * ALIGN + 2 * ALIGN + 2 * ALIGN  # two constants, 100 bytes to prefetch, two vectors


def test_states_are_laid_out_anew_when_one_is_resized() -> None:
    layout = StateLayout({"a": (3, 5), "b": (4,)})
    assert layout.offset == {"a": ALIGN, "b": 2 * ALIGN} and layout.stride * 4 == layout.bytes == 3 * ALIGN
    layout.resize("a", 200)
    assert layout.offset["b"] == ALIGN + 256
    layout.clock_period(6)
    layout.clock_period(4)
    assert layout.period == 12
