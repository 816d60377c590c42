"""How steps are spread over products: everything is emitted, in order, whatever the counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeemo.compile.kernels.builder import kernel
from edgeemo.compile.kernels.interleave import DeferredEpilogue, EpilogueInterleaver, OpStream, SpillSlots, round_robin
from edgeemo.compile.kernels.vector_math import FUNCTIONS, activation_cost
from edgeemo.targets.board import load_target


def counting(log: list[str], name: str, count: int) -> OpStream:
    """So many steps that note themselves and hand a number on; the value is their sum."""
    total = 0
    for i in range(count):
        log.append(f"{name}{i}")
        total = (yield total + i) or 0
    return total


def test_at_once_takes_one_step_of_each_in_turns() -> None:
    log: list[str] = []
    assert round_robin(counting(log, "a", 3), counting(log, "b", 1), counting(log, "c", 2)) == [3, 0, 1]
    assert log == ["a0", "b0", "c0", "a1", "c1", "a2"]


class FakeDesk:
    """Slots as a dictionary: what a step leaves is found again."""

    def __init__(self) -> None:
        self.free, self.held = 0, dict[int, Any]()

    def allocate(self, count: int) -> int:
        self.free += count
        return self.free - count

    def store(self, value: Any, slot: int) -> Any:
        self.held[slot] = value
        return lambda: self.held[slot]


class FakeBuilder:
    def scheduling_barrier(self) -> None:
        pass


def interleaver_of(log: list[str], rows: int, steps: int) -> tuple[EpilogueInterleaver, FakeDesk]:
    spill = FakeDesk()
    deferred = DeferredEpilogue(
        spill, lambda: lambda row: counting(log, f"row{row} ", steps), lambda row, part, sums: None, steps
    )  # type: ignore[arg-type]
    return EpilogueInterleaver(FakeBuilder(), deferred, rows), spill  # type: ignore[arg-type]


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 300))
def test_every_step_is_emitted_once(rows: int, steps: int, products: int) -> None:
    log: list[str] = []
    interleaver, spill = interleaver_of(log, rows, steps)
    interleaver.start()
    interleaver.begin(range(rows), products)
    for _ in range(products):
        interleaver.after_multiplication()
    interleaver.drain()
    assert sorted(log) == sorted(f"row{r} {i}" for r in range(rows) for i in range(steps))
    for r in range(rows):
        assert [x for x in log if x.startswith(f"row{r} ")] == [f"row{r} {i}" for i in range(steps)]
    assert spill.free == 0


def test_steps_are_spread_evenly() -> None:
    log: list[str] = []
    interleaver, _ = interleaver_of(log, 4, 10)
    interleaver.start()
    interleaver.begin(range(4), 240)
    seen = []
    for _ in range(240):
        interleaver.after_multiplication()
        seen.append(len(log))
    assert all(abs(n - (i + 1) / 6) <= 1 for i, n in enumerate(seen))
    assert log[:4] == ["row0 0", "row1 0", "row0 1", "row1 1"]  # two rows in turns


def turns_of(interleaver: EpilogueInterleaver, taps: int, turns: int) -> Iterator[tuple[int, int, list[int]]]:
    for tap in range(taps):
        for begin, end, rows in interleaver.split_loop(tap, taps, turns):
            for turn in range(end - begin):
                yield tap, begin + turn, [turn * len(rows) + row for row in rows]


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@given(taps=st.integers(1, 5), turns=st.integers(1, 6))
def test_every_row_is_in_one_turn(rows: int, taps: int, turns: int) -> None:
    interleaver, _ = interleaver_of([], rows, 1)
    parts = list(turns_of(interleaver, taps, turns))
    assert [(tap, turn) for tap, turn, _ in parts] == [(tap, turn) for tap in range(taps) for turn in range(turns)]
    assert sorted(row for _, _, deferred in parts for row in deferred) == list(range(rows))


@pytest.mark.parametrize(("name", "ops"), [("gelu", 26), ("silu", 39), ("hard_swish", 8), ("relu6", 4)])
def test_the_cost_of_an_activation_is_what_it_emits(name: str, ops: int) -> None:
    """In spill slots, too, with room for no constants but those that the dry run saw."""
    assert activation_cost("relu", True) == (0, ())
    count, constants = activation_cost(name, True)
    assert count == ops
    with kernel("counted", load_target("aarch64-neon").kernels) as (b, _):
        x = b.pointers({"x": "float32"})["x"]
        spill = SpillSlots(b, constants, 12)
        stream, value, emitted = FUNCTIONS[name](b, b.load(x, 0), spill.store(b.splat(2.0)), spill), None, 0
        while True:
            try:
                value = stream.send(value)
            except StopIteration:
                break
            emitted += 1
    assert emitted == ops
