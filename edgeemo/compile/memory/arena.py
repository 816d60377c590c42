"""Placement of a step's activations in one arena, by their live ranges."""

from __future__ import annotations

ALIGN = 64  # bytes: a cache line


def align(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


class Arena:
    """First-fit planning over live ranges, in bytes per stream; the step multiplies every offset by the batch."""

    def __init__(self) -> None:
        self._live: dict[int, int] = {}  # offset -> size
        self.peak = 0

    def allocate(self, size: int) -> int:
        size = align(max(size, 1))  # also nothing has a place of its own
        at = 0
        for start in sorted(self._live):
            if at + size <= start:
                break
            at = start + self._live[start]
        self._live[at] = size
        self.peak = max(self.peak, at + size)
        return at

    def free(self, offset: int) -> None:
        """Frees what lies at ``offset``. Raises KeyError where nothing does: a second one would free what came after."""
        del self._live[offset]
