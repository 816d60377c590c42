"""The inner loops of int8 products on NEON (see kernels/micro.py): one over 16 k at a time, and one over pairs of 16 k that takes
half the multiplications.

The second is Winograd's ("A new algorithm for inner products", IEEE Trans. Computers C-17, 1968): with a and w cut into halves
a0, a1 and w0, w1 of 16 k each,

    sum a0 w0 + sum a1 w1  =  sum (a0 + w1) (a1 + w0)  -  sum a0 a1  -  sum w0 w1

exactly. The last term is known when the weights are; the one before is a row's, whatever the column. So 32 products cost 16
multiplications and 32 additions of bytes, and additions go to either of the core's vector pipes, multiplications to one of them:
five operations on two pipes instead of four multiplications on one. It needs |a| + |w| <= 127, so that sums fit their bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.interleave import Beside, Take, Weave
from edgeemo.targets.capabilities import COLUMNS_S8, K_S8

if TYPE_CHECKING:
    from edgeemo.compile.kernels.gemm import Gemm

WEIGHT_BYTES = {"s8": 1, "f16": 2, "f32": 4}
ROWS = 4  # of a whole int8 tile
PARTS = 2  # a row's sums with lanes added in pairs
# k in one iteration of whole tiles and of others: loops of few iterations end as the branch predictor expects. Whole tiles of up
# to so many k need no loop: their first products begin the sums, and have the last tile's added across lanes among them.
UNROLL, UNROLL_LEFT, STRAIGHT = 128, 64, 384


def ask_ahead(spec: Gemm, b: Builder, w: Expr, at: Expr, elements: int) -> None:
    """For as many weights, the target's distance further on: perhaps the next layer's (WeightBlob leaves room)."""
    b.ask_for(w, at + b.target.ahead_bytes // WEIGHT_BYTES[spec.weights], elements)


def whole_rows(spec: Gemm) -> int:
    """Of a tile of a product. In pairs they take 34 registers with four rows, so that LLVM keeps some sums in memory, and 28 with
    three: where rows come in threes, tiles have as many."""
    return 3 if spec.pairs and spec.flat and spec.rows % 3 == 0 else ROWS


def is_straight(spec: Gemm, rows: int) -> bool:
    """Whether a NEON int8 tile of so many rows is computed without a loop; its sums then stay where they are until the next."""
    return rows == whole_rows(spec) and spec.taps * spec.tap_k <= STRAIGHT


def give_pairs(b: Builder, acc: Expr, rows: int, take: Take) -> None:
    """A NEON tile's sums, ``acc`` with four int32x4 a row, with lanes added in pairs."""
    for row in range(rows):
        for part in range(PARTS):
            take(row, part, pair(b, acc, row, part))


def pair(b: Builder, acc: Expr, row: int, part: int) -> Expr:
    return b.pair_sums(*(b.load(acc, (row * 4 + 2 * part + i) * 4) for i in range(2)))


def half(b: Builder, vector: Expr, start: int) -> Expr:
    return b.intrinsic("int8x8", "llvm.vector.extract.v8i8.v16i8", vector, T.int64(start))


def products16(b: Builder, x: Expr, y: Expr) -> Expr:
    """Of 16 lanes, added in twos: int16x8 (SMULL, SMLAL2)."""
    low, high = (b.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", half(b, x, s), half(b, y, s)) for s in (0, 8))
    return low + high


def widened(b: Builder, sums: Expr) -> Expr:
    """int16x8 to int32x4, added in twos; what it is added to then takes it in (SADALP)."""
    return b.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", sums)


class S8Neon:
    """16 k at a time. A software pipeline: every load stands well before its first use, and fences keep LLVM's scheduler from
    moving it there. The next chunk's first two columns of weights, which bring in its cache line, are loaded half a chunk ahead,
    a row's next 16 k where its register falls free. So the multiplier never waits: 32 cycles for the 32 products of a chunk."""

    run = K_S8  # k of a chunk

    def __init__(self, spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]]) -> None:
        self.spec, self.b, self.a, self.w, self.rows = spec, b, a, w, rows
        self.chunks = spec.tap_k // self.run
        self.straight = is_straight(spec, len(rows))
        most = (UNROLL if len(rows) == whole_rows(spec) else UNROLL_LEFT) // self.run
        self.unroll = self.chunks if self.straight else max(u for u in range(1, most + 1) if self.chunks % u == 0)

    def begin(self, w_at: Expr, acc: Expr | None = None) -> None:
        """Loads what the first chunk of the tile with weights from ``w_at`` needs. ``acc``: int32, 16 a row, with the sums of the
        tile before, which are added across lanes among the first products of the next."""
        b = self.b
        self.acc = b.scratch(len(self.rows) * 16, "int32") if acc is None else acc
        self.held = b.scratch((2 + len(self.rows) * (self.run // K_S8)) * 16, "int8")  # weights of 32 bytes, then the rows
        # A nought that LLVM does not know: what is loaded again and again from one place would be kept in registers.
        self.nought = b.scratch(1, "int32", volatile=True) if self.straight else None
        if self.nought is not None:
            b.store(self.nought, T.int32(0), 0, 1)
        self._load(w_at, 0)

    def _load(self, w_at: Expr, at: Expr) -> None:
        for j in range(2):
            self._hold(j, self.b.load(self.w, w_at + j * K_S8, 16))
        for i, (_, row) in enumerate(self.rows):
            self._hold(2 + i, self.b.load(self.a, row + at, 16))

    def _hold(self, place: int, value: Expr) -> None:
        self.b.store(self.held, value, place * 16, 16)

    def _nothing(self, row: int) -> Expr:
        """What a row's sums begin with."""
        return self.b.zeros("int32", 4)

    def _sum(self, row: int, column: int) -> Expr:
        return self.b.load(self.acc, (row * 4 + column) * 4)

    def _set(self, row: int, column: int, value: Expr) -> None:
        self.b.store(self.acc, value, (row * 4 + column) * 4)

    def _chunk(self, w_chunk: Expr, next_at: Expr, weave: Weave, first: bool = False) -> None:
        """``next_at``: where, from a row's first element, the chunk after this one lies. ``first``: of the tile."""
        b, rows = self.b, self.rows
        a = [b.load(self.held, (2 + i) * 16, 16) for i in range(len(rows))]
        w = [b.load(self.held, j * 16, 16) for j in range(2)]
        w += [b.load(self.w, w_chunk + j * K_S8, 16) for j in (2, 3)]
        ask_ahead(self.spec, b, self.w, w_chunk, 4 * K_S8)
        b.fence()

        for j in range(4):
            if j == 2:
                for column in range(2):
                    self._hold(column, b.load(self.w, w_chunk + (4 + column) * K_S8, 16))
                b.fence()
            for i, (_, at) in enumerate(rows):
                wide = widened(b, products16(b, a[i], w[j]))
                if first and j < 2:
                    weave.beside.take(i, j, pair(b, self.acc, i, j))
                    b.fence()
                self._set(i, j, b.opaque(wide) if first else wide + self._sum(i, j))
                weave.after_product()
                if j == 3:
                    self._hold(2 + i, b.load(self.a, at + next_at, 16))
                    b.fence()

    def tile(self, w_at: Expr, beside: Beside) -> None:
        """One tile's sums with ``beside`` among them. Where it is straight, they stay in ``acc`` until the next tile."""
        spec, b, chunks = self.spec, self.b, self.chunks
        weave = Weave(b, beside, len(self.rows))
        if self.straight:
            places = [tap * spec.tap_stride + chunk * self.run for tap in range(spec.taps) for chunk in range(chunks)]
            for n in range(len(places)):
                next_at = places[n + 1] if n + 1 < len(places) else b.load(self.nought, 0, 1)
                self._chunk(w_at + n * COLUMNS_S8 * self.run, next_at, weave, first=n == 0)
                if n == 0:
                    weave.start()
                    weave.begin(range(len(self.rows)), (len(places) - 1) * len(self.rows) * 4)
            weave.finish()
            return
        for i in range(len(self.rows)):
            for j in range(COLUMNS_S8):
                self._set(i, j, self._nothing(i))
        weave.start()
        turns, products = chunks // self.unroll, self.unroll * 4 * len(self.rows)
        for tap in range(spec.taps):
            self._load(w_at + tap * chunks * COLUMNS_S8 * self.run, tap * spec.tap_stride)
            for begin, end, rows in weave.shares(tap, spec.taps, turns):
                with T.serial(0, end - begin) as turn:
                    weave.begin([b.bind(turn * len(rows) + row) for row in rows], products)
                    for inner in range(self.unroll):
                        chunk = (turn + begin) * self.unroll + inner
                        next_at = tap * spec.tap_stride + (chunk + 1) * self.run
                        self._chunk(w_at + (tap * chunks + chunk) * COLUMNS_S8 * self.run, next_at, weave)
                    weave.finish()
        give_pairs(b, self.acc, len(self.rows), beside.take)


class Terms:
    """What rows of a tile bring to products in pairs, for as many tiles of rows as there is room for: found while the first
    columns pass by, read while others do. Made where the kernel begins, as a desk is (kernels/weave.py)."""

    KEPT = 14  # tiles; with one more they are less than the KiB that a kernel may have at once (kernels/builder.py)

    def __init__(self, b: Builder) -> None:
        self.b = b
        self.memory = b.scratch((self.KEPT + 1) * ROWS * 4, "int32", volatile=True)
        self.state = b.scratch(2, "int32", volatile=True)  # tiles of rows so far, and whether theirs are to be found
        for end in (0, self.KEPT * ROWS * 4):  # else TVM takes what one tile has for all that is used
            b.store(self.memory, b.zeros("int32", 4), end)

    def begin(self, columns: Expr) -> None:
        """Rows pass by from the first on, for the first ``columns`` (0) or for others."""
        self.b.store(self.state, T.int32(0), 0, 1)
        self.b.store(self.state, T.Cast("int32", T.max(1 - columns, 0)), 1, 1)

    def of_next(self, find: Callable[[Expr], None]) -> Expr:
        """Where the next tile's terms lie, to which ``find`` writes them if need be."""
        b = self.b
        tile = b.load(self.state, 0, 1)
        b.store(self.state, tile + 1, 0, 1)
        at = b.bind(T.min(tile, self.KEPT) * (ROWS * 4))
        with T.If(b.load(self.state, 1, 1) + tile // self.KEPT > 0), T.Then():
            find(at)
        return at


class S8Pairs(S8Neon):
    """32 k at a time, with half the multiplications. A product's sums are widened behind the next one's multiplications, whose
    additions go before them: 2.6 cycles for 32 products, where 2.5 would have both pipes full (modelled)."""

    run = 2 * K_S8

    def __init__(self, spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]], terms: Terms) -> None:
        super().__init__(spec, b, a, w, rows)
        self.terms, self.found = terms.memory, b.scratch(len(rows) * 4, "int32")
        for i in range(len(rows)):  # here, not where they are found: TVM may give its memory to what is beyond a condition
            b.store(self.found, b.zeros("int32", 4), i * 4)
        self.at = terms.of_next(self._find_terms)

    def _find_terms(self, to: Expr) -> None:
        """Each row's - sum a0 a1, in four parts, which its sums begin with."""
        spec, b, sums = self.spec, self.b, self.found
        with T.serial(0, spec.taps) as tap, T.serial(0, self.chunks) as chunk:
            for i, (_, at) in enumerate(self.rows):
                a0, a1 = (b.load(self.a, at + tap * spec.tap_stride + chunk * self.run + k, 16) for k in (0, K_S8))
                b.store(sums, b.load(sums, i * 4) + widened(b, products16(b, a0, a1)), i * 4)
        for i in range(len(self.rows)):
            b.store(self.terms, b.zeros("int32", 4) - b.load(sums, i * 4), to + i * 4)

    def _nothing(self, row: int) -> Expr:
        return self.b.load(self.terms, self.at + row * 4)

    def _load(self, w_at: Expr, at: Expr) -> None:
        self._hold_pair(0, self.w, w_at)
        for i, (_, row) in enumerate(self.rows):
            self._hold_pair(2 + 2 * i, self.a, row + at)

    def _hold_pair(self, place: int, buffer: Expr, at: Expr) -> None:
        for k in range(2):
            self._hold(place + k, self.b.load(buffer, at + k * K_S8, 16))

    def _held_pair(self, place: int) -> list[Expr]:
        return [self.b.load(self.held, (place + k) * 16, 16) for k in range(2)]

    def _chunk(self, w_chunk: Expr, next_at: Expr, weave: Weave, first: bool = False) -> None:
        b = self.b
        before: tuple[int, int, Expr] | None = None

        def add(i: int, j: int, products: Expr) -> None:
            self._set(i, j, widened(b, products) + (self._nothing(i) if first else self._sum(i, j)))

        for j in range(COLUMNS_S8):
            w0, w1 = self._held_pair(0)
            self._hold_pair(0, self.w, w_chunk + (j + 1) * self.run)
            if j % 2 == 0:
                ask_ahead(self.spec, b, self.w, w_chunk + j * self.run, 2 * self.run)
            b.fence()
            for i, (_, at) in enumerate(self.rows):
                a0, a1 = self._held_pair(2 + 2 * i)
                products = b.bind(products16(b, b.bind(a0 + w1), b.bind(a1 + w0)))
                if first and j < PARTS:
                    weave.beside.take(i, j, pair(b, self.acc, i, j))
                if before is not None:
                    add(*before)
                before = i, j, products
                if j == COLUMNS_S8 - 1:
                    self._hold_pair(2 + 2 * i, self.a, at + next_at)
                b.fence()
                weave.after_product()
        assert before is not None
        add(*before)
