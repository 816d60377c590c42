"""How steps are spread over products: everything is emitted, in order, whatever the counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeemo.compile.kernels.builder import kernel
from edgeemo.compile.kernels.interleave import Beside, Desk, Steps, Weave, at_once
from edgeemo.compile.kernels.vector_math import FUNCTIONS, STEPS, constants
from edgeemo.targets.board import load_target


def counting(log: list[str], name: str, count: int) -> Steps:
    """So many steps that note themselves and hand a number on; the value is their sum."""
    total = 0
    for i in range(count):
        log.append(f"{name}{i}")
        total = (yield total + i) or 0
    return total


def test_at_once_takes_one_step_of_each_in_turns() -> None:
    log: list[str] = []
    assert at_once(counting(log, "a", 3), counting(log, "b", 1), counting(log, "c", 2)) == [3, 0, 1]
    assert log == ["a0", "b0", "c0", "a1", "c1", "a2"]


class FakeDesk:
    """Slots as a dictionary: what a step leaves is found again."""

    def __init__(self) -> None:
        self.free, self.held = 0, dict[int, Any]()

    def slots(self, count: int) -> int:
        self.free += count
        return self.free - count

    def keep(self, value: Any, slot: int) -> Any:
        self.held[slot] = value
        return lambda: self.held[slot]


class FakeBuilder:
    def fence(self) -> None:
        pass


def weave_of(log: list[str], rows: int, steps: int) -> tuple[Weave, FakeDesk]:
    desk = FakeDesk()
    beside = Beside(desk, lambda: lambda row: counting(log, f"row{row} ", steps), lambda row, part, sums: None, steps)  # type: ignore[arg-type]
    return Weave(FakeBuilder(), beside, rows), desk  # type: ignore[arg-type]


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 300))
def test_every_step_is_emitted_once(rows: int, steps: int, products: int) -> None:
    log: list[str] = []
    weave, desk = weave_of(log, rows, steps)
    weave.start()
    weave.begin(range(rows), products)
    for _ in range(products):
        weave.after_product()
    weave.finish()
    assert sorted(log) == sorted(f"row{r} {i}" for r in range(rows) for i in range(steps))
    for r in range(rows):
        assert [x for x in log if x.startswith(f"row{r} ")] == [f"row{r} {i}" for i in range(steps)]
    assert desk.free == 0


def test_steps_are_spread_evenly() -> None:
    log: list[str] = []
    weave, _ = weave_of(log, 4, 10)
    weave.start()
    weave.begin(range(4), 240)
    seen = []
    for _ in range(240):
        weave.after_product()
        seen.append(len(log))
    assert all(abs(n - (i + 1) / 6) <= 1 for i, n in enumerate(seen))
    assert log[:4] == ["row0 0", "row1 0", "row0 1", "row1 1"]  # two rows in turns


def turns_of(weave: Weave, taps: int, turns: int) -> Iterator[tuple[int, int, list[int]]]:
    for tap in range(taps):
        for begin, end, rows in weave.shares(tap, taps, turns):
            for turn in range(end - begin):
                yield tap, begin + turn, [turn * len(rows) + row for row in rows]


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@given(taps=st.integers(1, 5), turns=st.integers(1, 6))
def test_every_row_is_in_one_turn(rows: int, taps: int, turns: int) -> None:
    weave, _ = weave_of([], rows, 1)
    parts = list(turns_of(weave, taps, turns))
    assert [(tap, turn) for tap, turn, _ in parts] == [(tap, turn) for tap in range(taps) for turn in range(turns)]
    assert sorted(row for _, _, beside in parts for row in beside) == list(range(rows))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_activation_has_the_steps_it_is_said_to_have(name: str) -> None:
    with kernel("counted", load_target("aarch64-neon").kernels) as (b, _):
        x = b.pointers({"x": "float32"})["x"]
        desk = Desk(b, constants(name, True), 12)
        steps, value, count = FUNCTIONS[name](b, b.load(x, 0), desk.keep(b.splat(2.0)), desk), None, 0
        while True:
            try:
                value = steps.send(value)
            except StopIteration:
                break
            count += 1
    assert count == STEPS[name]
