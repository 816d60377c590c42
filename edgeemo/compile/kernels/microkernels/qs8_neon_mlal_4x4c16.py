"""Int8 micro-kernel for NEON: SMULL + SMLAL2 + SADALP on tiles of 4 rows x 4 columns, 16 k at a time.

Needs |a| <= 128 and |w| <= 127, so that two products fit an int16 lane before SADALP widens them. Register map of a tile:

    16 sums             one int32x4 for each row and column, lanes to be added at the end
    a0..a3, w0..w3      16 int8 each
    2 temporaries       products on their way

A software pipeline: prologue (first operands), main loop over blocks of 16 k, then the sums' lanes are added pairwise. Every load
stands well before its first use, and scheduling barriers keep LLVM from moving it there. The next block's first two columns of
weights, which bring in its cache line, are loaded half a block ahead, a row's next 16 k where its register falls free. So the
multiplier never waits: 32 cycles for the 32 multiplications of a block (modelled).
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.interleave import AccumulatorSink, DeferredEpilogue, EpilogueInterleaver
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets.capabilities import COLUMNS_S8, K_S8

WEIGHT_BYTES = {"s8": 1, "f16": 2, "f32": 4}
TILE_ROWS = 4
HALVES = 2  # a row's sums with lanes added pairwise
# k in one iteration of whole tiles and of others: loops of few iterations end as the branch predictor expects. Whole tiles of up
# to FULLY_UNROLLED_K need no loop: their first multiplications start the sums, and have the last tile's reduction among them.
UNROLL_K, UNROLL_K_PARTIAL, FULLY_UNROLLED_K = 128, 64, 384


def prefetch_weights(spec: Gemm, b: Builder, w: Expr, at: Expr, elements: int) -> None:
    """For as many weights, the target's distance further on: perhaps the next layer's (WeightBlob leaves room at its end)."""
    b.prefetch(w, at + b.target.prefetch_distance_bytes // WEIGHT_BYTES[spec.kind], elements)


def tile_rows(spec: Gemm) -> int:
    """Rows of a whole tile. Winograd's kernel needs 34 registers with four rows, so that LLVM spills some sums, and 28 with
    three: where rows come in threes, so do its tiles."""
    return 3 if spec.winograd and spec.flat and spec.rows % 3 == 0 else TILE_ROWS


def is_fully_unrolled(spec: Gemm, rows: int) -> bool:
    """Whether a tile of so many rows is computed without a loop; its sums then stay where they are until the next tile."""
    return rows == tile_rows(spec) and spec.taps * spec.tap_k <= FULLY_UNROLLED_K


def reduce_pairwise(b: Builder, acc: Expr, rows: int, sink: AccumulatorSink) -> None:
    """Hands over a tile's sums, ``acc`` with four int32x4 a row, with neighbouring lanes added."""
    for row in range(rows):
        for part in range(HALVES):
            sink(row, part, pairwise_sum(b, acc, row, part))


def pairwise_sum(b: Builder, acc: Expr, row: int, part: int) -> Expr:
    return b.pair_sums(*(b.load(acc, (row * 4 + 2 * part + i) * 4) for i in range(2)))


def halves(b: Builder, vector: Expr) -> list[Expr]:
    """Lanes 0 to 7 and 8 to 15 of an int8x16, which cost nothing: SMULL2 takes the upper ones where they are."""
    return [b.intrinsic("int8x8", "llvm.vector.extract.v8i8.v16i8", vector, T.int64(start)) for start in (0, 8)]


def multiply_16(b: Builder, x: list[Expr], y: list[Expr]) -> Expr:
    """Products of 16 lanes of int8 given as halves, lane i and lane i + 8 added: int16x8 (SMULL, SMLAL2)."""
    low, high = (b.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", *pair) for pair in zip(x, y, strict=True))
    return low + high


def widen_pairs(b: Builder, sums: Expr) -> Expr:
    """int16x8 to int32x4, neighbours added; an addition behind it makes it one instruction (SADALP)."""
    return b.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", sums)


class Qs8NeonMlal:
    """Emits tiles of some rows: ``rows`` are (output row, first element of ``a``)."""

    k_per_block = K_S8

    def __init__(self, spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]]) -> None:
        self.spec, self.b, self.a, self.w, self.rows = spec, b, a, w, rows
        self.blocks = spec.tap_k // self.k_per_block
        self.fully_unrolled = is_fully_unrolled(spec, len(rows))
        most = (UNROLL_K if len(rows) == tile_rows(spec) else UNROLL_K_PARTIAL) // self.k_per_block
        self.unroll = self.blocks if self.fully_unrolled else max(u for u in range(1, most + 1) if self.blocks % u == 0)

    def prologue(self, w_at: Expr, acc: Expr | None = None) -> None:
        """Loads the first block's operands of the tile with weights from ``w_at``. ``acc``: int32, 16 a row, with the sums of the
        tile before, which are reduced among the first multiplications of the next."""
        b = self.b
        self.acc = b.scratch(len(self.rows) * 16, "int32") if acc is None else acc
        # Two columns of weights, then the rows.
        self.operands = b.scratch((2 + len(self.rows) * (self.k_per_block // K_S8)) * 16, "int8")
        # A zero that LLVM cannot fold, so that a reload is not hoisted into a register.
        self.opaque_zero = b.scratch(1, "int32", volatile=True) if self.fully_unrolled else None
        if self.opaque_zero is not None:
            b.store(self.opaque_zero, T.int32(0), 0, 1)
        self._load(w_at, 0)

    def _load(self, w_at: Expr, at: Expr) -> None:
        for j in range(2):
            self._store_operand(j, self.b.load(self.w, w_at + j * K_S8, 16))
        for i, (_, row) in enumerate(self.rows):
            self._store_operand(2 + i, self.b.load(self.a, row + at, 16))

    def _store_operand(self, slot: int, value: Expr) -> None:
        self.b.store(self.operands, value, slot * 16, 16)

    def _initial_sum(self, row: int) -> Expr:
        return self.b.zeros("int32", 4)

    def _sum(self, row: int, column: int) -> Expr:
        return self.b.load(self.acc, (row * 4 + column) * 4)

    def _set_sum(self, row: int, column: int, value: Expr) -> None:
        self.b.store(self.acc, value, (row * 4 + column) * 4)

    def _k_block(self, w_block: Expr, next_at: Expr, interleaver: EpilogueInterleaver, first: bool = False) -> None:
        """One block of k. ``next_at``: offset of the following block from a row's first element. ``first``: of the tile."""
        b, rows = self.b, self.rows
        a = [b.load(self.operands, (2 + i) * 16, 16) for i in range(len(rows))]
        w = [b.load(self.operands, j * 16, 16) for j in range(2)]
        w += [b.load(self.w, w_block + j * K_S8, 16) for j in (2, 3)]
        # Named once, not for each of a vector's four multiplications: less code to compile.
        a, w = ([[b.bind(half) for half in halves(b, v)] for v in vectors] for vectors in (a, w))
        prefetch_weights(self.spec, b, self.w, w_block, 4 * K_S8)
        b.scheduling_barrier()

        for j in range(4):
            if j == 2:
                for column in range(2):
                    self._store_operand(column, b.load(self.w, w_block + (4 + column) * K_S8, 16))
                b.scheduling_barrier()
            for i, (_, at) in enumerate(rows):
                wide = widen_pairs(b, multiply_16(b, a[i], w[j]))
                if first and j < 2:
                    interleaver.epilogue.sink(i, j, pairwise_sum(b, self.acc, i, j))
                    b.scheduling_barrier()
                self._set_sum(i, j, b.value_barrier(wide) if first else wide + self._sum(i, j))
                interleaver.after_multiplication()
                if j == 3:
                    self._store_operand(2 + i, b.load(self.a, at + next_at, 16))
                    b.scheduling_barrier()

    def main_loop(self, w_at: Expr, epilogue: DeferredEpilogue) -> None:
        """One tile's sums with ``epilogue`` among the multiplications. Fully unrolled, they stay in ``acc`` until the next
        tile."""
        interleaver = EpilogueInterleaver(self.b, epilogue, len(self.rows))
        if self.fully_unrolled:
            self._unrolled(w_at, interleaver)
            return
        spec, b, blocks = self.spec, self.b, self.blocks
        for i in range(len(self.rows)):
            for j in range(COLUMNS_S8):
                self._set_sum(i, j, self._initial_sum(i))
        interleaver.start()
        turns, multiplications = blocks // self.unroll, self.unroll * 4 * len(self.rows)
        for tap in range(spec.taps):
            self._load(w_at + tap * blocks * COLUMNS_S8 * self.k_per_block, tap * spec.tap_stride)
            for begin, end, rows in interleaver.split_loop(tap, spec.taps, turns):
                with T.serial(0, end - begin) as turn:
                    interleaver.begin([b.bind(turn * len(rows) + row) for row in rows], multiplications)
                    for inner in range(self.unroll):
                        block = (turn + begin) * self.unroll + inner
                        next_at = tap * spec.tap_stride + (block + 1) * self.k_per_block
                        self._k_block(w_at + (tap * blocks + block) * COLUMNS_S8 * self.k_per_block, next_at, interleaver)
                    interleaver.drain()
        reduce_pairwise(b, self.acc, len(self.rows), epilogue.sink)

    def _unrolled(self, w_at: Expr, interleaver: EpilogueInterleaver) -> None:
        spec, size = self.spec, self.k_per_block
        starts = [tap * spec.tap_stride + block * size for tap in range(spec.taps) for block in range(self.blocks)]
        for n in range(len(starts)):
            next_at = starts[n + 1] if n + 1 < len(starts) else self.b.load(self.opaque_zero, 0, 1)
            self._k_block(w_at + n * COLUMNS_S8 * size, next_at, interleaver, first=n == 0)
            if n == 0:
                interleaver.start()
                interleaver.begin(range(len(self.rows)), (len(starts) - 1) * len(self.rows) * 4)
        interleaver.drain()
