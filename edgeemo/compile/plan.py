"""Where everything lies: states within a stream's row, weights within the blob, activations within the arena."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import lcm
from typing import Any

import numpy as np

ALIGN = 64  # bytes: a cache line


def align(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


class StatePlan:
    """One row per slot: a clock (int32), then every state at a multiple of 64 bytes: float32, or what the kernel that
    keeps it in place makes of it (resize).

    ``rings`` are the parameters that may stay in place; ``next_of`` maps a state's parameter to the variable of its next value.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.sizes = {name: int(np.prod(shape)) * 4 for name, shape in shapes.items()}  # bytes
        self.offset: dict[str, int] = {}
        self.bytes = 0
        self._place()
        self.period = 1
        self.params: dict[Any, str] = {}
        self.rings: set[Any] = set()
        self.next_of: dict[Any, Any] = {}
        self.slots: Any = None
        self.clock: Any = None
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
class WeightBlob:
    """Constants packed one after another, equal ones once. Kernels load weights ahead, by ``ahead`` bytes and a few vectors:
    ``finish`` leaves them room at the end."""

    ahead: int = 0
    data: bytearray = field(default_factory=bytearray)
    _at: dict[bytes, int] = field(default_factory=dict)

    def add(self, array: np.ndarray) -> int:
        """Byte offset of ``array`` in the blob."""
        raw = array.tobytes()
        key = str(array.dtype).encode() + raw
        if key not in self._at:
            self._at[key] = len(self.data)
            self.data += raw + bytes(align(len(raw)) - len(raw))
        return self._at[key]

    def finish(self) -> bytes:
        return bytes(self.data) + bytes(align(self.ahead) + ALIGN * 2)


class Arena:
    """First-fit planning over live ranges, in bytes per stream; the step multiplies every offset by the batch."""

    def __init__(self) -> None:
        self._live: dict[int, int] = {}  # offset -> size
        self.peak = 0

    def take(self, size: int) -> int:
        size = align(max(size, 1))  # also nothing has a place of its own
        at = 0
        for start in sorted(self._live):
            if at + size <= start:
                break
            at = start + self._live[start]
        self._live[at] = size
        self.peak = max(self.peak, at + size)
        return at

    def release(self, offset: int) -> None:
        """Frees what lies at ``offset``. Raises KeyError where nothing does: a second release would free what came after."""
        del self._live[offset]
