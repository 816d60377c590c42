"""Layout of a stream's states in its row, and their variables in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np

from edgeemo.compile.memory.arena import ALIGN, align


class StateLayout:
    """One row per slot: a clock (int32), then every state at a multiple of 64 bytes: float32, or what the kernel that
    keeps it in place makes of it (resize).
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.sizes = {name: int(np.prod(shape)) * 4 for name, shape in shapes.items()}  # bytes
        self.offset: dict[str, int] = {}
        self.bytes = 0
        self._place()
        self.period = 1
        self.copied: set[str] = set(shapes)  # states not updated in place

    def _place(self) -> None:
        at = ALIGN  # the clock has the first line
        for name, size in self.sizes.items():
            self.offset[name] = at
            at += align(size)
        self.bytes = at

    def resize(self, name: str, size: int) -> None:
        """Gives a state that a kernel keeps in its own layout ``size`` bytes. Moves the others: before any stride is used."""
        self.sizes[name] = size
        self._place()

    @property
    def stride(self) -> int:
        """float32 words from one slot's row to the next."""
        return self.bytes // 4

    def words(self, name: str) -> int:
        return int(np.prod(self.shapes[name]))

    def clock_period(self, steps: int) -> None:
        """The clock must wrap at a multiple of every ring's length in steps."""
        self.period = lcm(self.period, steps)


@dataclass
class StateBindings:
    """Relax variables of states: ``params`` by state's parameter its name, ``rings`` the parameters that may stay in place,
    ``next_of`` a state's parameter to the variable of its next value; ``slots`` and ``clock`` are parameters next to them."""

    params: dict[Any, str]
    rings: set[Any]
    next_of: dict[Any, Any]
    slots: Any
    clock: Any
