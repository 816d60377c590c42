"""Terms of a row of activations alone: found with the first block of columns, kept for the others."""

from __future__ import annotations

from collections.abc import Callable

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr

ROWS = 4  # of a tile, at most


class RowTermCache:
    """A row's term, four int32 of it, for as many tiles of rows as there is room for: computed with a column block 0, read with
    the others. Made at the kernel's beginning, as SpillSlots are (kernels/interleave.py)."""

    CAPACITY = 14  # tiles; with one more they are less than the KiB that a kernel may have at once (kernels/builder.py)

    def __init__(self, b: Builder) -> None:
        self.b = b
        self.memory = b.scratch((self.CAPACITY + 1) * ROWS * 4, "int32", volatile=True)
        self.state = b.scratch(2, "int32", volatile=True)  # tiles of rows so far, and whether theirs are to be computed
        for end in (0, self.CAPACITY * ROWS * 4):  # else TVM takes one tile's part for all that is used
            b.store(self.memory, b.zeros("int32", 4), end)

    def begin_column_block(self, block: Expr) -> None:
        """Rows are iterated from the first on, for column block 0 or for another."""
        self.b.store(self.state, T.int32(0), 0, 1)
        self.b.store(self.state, T.Cast("int32", T.max(1 - block, 0)), 1, 1)

    def next_tile(self, compute: Callable[[Expr], None]) -> Expr:
        """Offset of the next tile's terms, which ``compute`` writes there where they are not yet."""
        b = self.b
        tile = b.load(self.state, 0, 1)
        b.store(self.state, tile + 1, 0, 1)
        at = b.bind(T.min(tile, self.CAPACITY) * (ROWS * 4))
        with T.If(b.load(self.state, 1, 1) + tile // self.CAPACITY > 0), T.Then():
            compute(at)
        return at
