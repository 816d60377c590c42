"""The inner loops of the products (kernels/gemm.py): the sums of one tile of output, left in registers.

Each takes a tile's rows as (output row, first element of a), and the first element of its weights; it gives per row the sums in
vectors of four. Type, instructions, rows x columns of a tile (the target's file gives those of floats):

    s8_neon      SMULL + SMLAL2 + SADALP, 4 x 4: 16 sums in registers, 16 k of every row and column per turn
                 |a| <= 128 and |w| <= 127, so two products fit an int16 lane before SADALP widens them
    s8_portable  the same sums from sign-extended int16 products, any vector unit
    f32          FMLA by element: 16 sums, the next k's weights loaded ahead
    f16          f32 with w loaded as half and widened (FCVTL): FP16 storage, FP32 arithmetic
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.pack import K_S8
from edgeemo.compile.kernels.weave import NOTHING, Beside, Take, Weave

if TYPE_CHECKING:
    from edgeemo.compile.kernels.gemm import Gemm

WEIGHT_BYTES = {"s8": 1, "f16": 2, "f32": 4}
ROWS = 4  # of a whole int8 tile
PARTS = 2  # a row's sums with lanes added in pairs
# Chunks of 16 k in one iteration of whole tiles and of others: loops of few iterations end as the branch predictor expects. Whole
# tiles of up to so many chunks need no loop: their first products begin the sums, and have the last tile's added across lanes
# among them.
UNROLL, UNROLL_LEFT, STRAIGHT = 8, 4, 24


def ask_ahead(spec: Gemm, b: Builder, w: Expr, at: Expr, elements: int) -> None:
    """For as many weights, the target's distance further on: perhaps the next layer's (WeightBlob leaves room)."""
    b.ask_for(w, at + b.target.ahead_bytes // WEIGHT_BYTES[spec.weights], elements)


def is_straight(spec: Gemm, rows: int) -> bool:
    """Whether a NEON int8 tile of so many rows is computed without a loop; its sums then stay where they are until the next."""
    return rows == ROWS and spec.taps * spec.tap_k <= STRAIGHT * K_S8


def give_pairs(b: Builder, acc: Expr, rows: int, take: Take) -> None:
    """A NEON tile's sums, ``acc`` with four int32x4 a row, with lanes added in pairs."""
    for row in range(rows):
        for part in range(PARTS):
            take(row, part, pair(b, acc, row, part))


def pair(b: Builder, acc: Expr, row: int, part: int) -> Expr:
    return b.pair_sums(*(b.load(acc, (row * 4 + 2 * part + i) * 4) for i in range(2)))


class S8Neon:
    """A software pipeline: every load stands well before its first use, and fences keep LLVM's scheduler from moving it there.
    The next chunk's first two columns of weights, which bring in its cache line, are loaded half a chunk ahead, a row's next 16 k
    where its register falls free. So the multiplier never waits: 32 cycles for the 32 products of a chunk."""

    def __init__(
        self, spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]], w_at: Expr, acc: Expr | None = None
    ) -> None:
        """Loads what the first chunk of the tile with weights from ``w_at`` needs. ``acc``: int32, 16 a row, with the sums of the
        tile before, which are added across lanes among the first products of the next."""
        self.spec, self.b, self.a, self.w, self.rows = spec, b, a, w, rows
        self.acc = b.scratch(len(rows) * 16, "int32") if acc is None else acc
        self.held = b.scratch((2 + len(rows)) * 16, "int8")  # two columns of weights, then the rows
        self.chunks = spec.tap_k // K_S8
        self.straight = is_straight(spec, len(rows))
        most = UNROLL if len(rows) == ROWS else UNROLL_LEFT
        self.unroll = self.chunks if self.straight else max(u for u in range(1, most + 1) if self.chunks % u == 0)
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

        def half(v: Expr, start: int) -> Expr:
            return b.intrinsic("int8x8", "llvm.vector.extract.v8i8.v16i8", v, T.int64(start))

        for j in range(4):
            if j == 2:
                for column in range(2):
                    self._hold(column, b.load(self.w, w_chunk + (4 + column) * K_S8, 16))
                b.fence()
            for i, (_, at) in enumerate(rows):
                low, high = (
                    b.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", half(a[i], s), half(w[j], s)) for s in (0, 8)
                )
                wide = b.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", low + high)
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
            places = [tap * spec.tap_stride + chunk * K_S8 for tap in range(spec.taps) for chunk in range(chunks)]
            for n in range(len(places)):
                next_at = places[n + 1] if n + 1 < len(places) else b.load(self.nought, 0, 1)
                self._chunk(w_at + n * 4 * K_S8, next_at, weave, first=n == 0)
                if n == 0:
                    weave.start()
                    weave.begin(range(len(self.rows)), (len(places) - 1) * len(self.rows) * 4)
            weave.finish()
            return
        for i in range(len(self.rows) * 4):
            b.store(self.acc, b.zeros("int32", 4), i * 4)
        weave.start()
        turns, products = chunks // self.unroll, self.unroll * 4 * len(self.rows)
        for tap in range(spec.taps):
            self._load(w_at + tap * chunks * 4 * K_S8, tap * spec.tap_stride)
            for begin, end, rows in weave.shares(tap, spec.taps, turns):
                with T.serial(0, end - begin) as turn:
                    weave.begin([b.bind(turn * len(rows) + row) for row in rows], products)
                    for inner in range(self.unroll):
                        chunk = (turn + begin) * self.unroll + inner
                        next_at = tap * spec.tap_stride + (chunk + 1) * K_S8
                        self._chunk(w_at + (tap * chunks + chunk) * 4 * K_S8, next_at, weave)
                    weave.finish()
        give_pairs(b, self.acc, len(self.rows), beside.take)


class MicroKernels:
    """Emits them for one product: ``a`` and ``w`` are its buffers."""

    def __init__(self, spec: Gemm, b: Builder, a: Expr, w: Expr) -> None:
        self.spec, self.b, self.a, self.w = spec, b, a, w

    def s8(self, rows: list[tuple[Expr, Expr]], w_at: Expr) -> list[list[Expr]]:
        """One int8 tile by itself."""
        if not self.b.neon:
            return self._s8_portable(rows, w_at)
        parts: list[Expr] = []
        alone = S8Neon(self.spec, self.b, self.a, self.w, rows, w_at)
        alone.tile(w_at, NOTHING)
        give_pairs(self.b, alone.acc, len(rows), lambda row, part, sums: parts.append(sums))
        return [[self.b.pair_sums(*parts[i : i + 2])] for i in range(0, len(parts), 2)]

    def s8_tiles(self, rows: list[tuple[Expr, Expr]], w_at: Expr, acc: Expr) -> Callable[[Expr, Beside], None]:
        """For int8 tiles of the same rows one after another, the first one's weights from ``w_at``; ``acc`` as S8Neon's. Emits a
        tile of (first element of its weights, what is done meanwhile)."""
        return S8Neon(self.spec, self.b, self.a, self.w, rows, w_at, acc).tile

    def last_sums(self, rows: int, acc: Expr, take: Take) -> None:
        """Of the last tile, where the next one would have taken them."""
        if is_straight(self.spec, rows):
            give_pairs(self.b, acc, rows, take)

    def _s8_portable(self, rows: list[tuple[Expr, Expr]], w_at: Expr) -> list[list[Expr]]:
        spec, b = self.spec, self.b
        sums = b.scratch(len(rows) * 32, "int32")
        for i in range(len(rows) * 4):
            b.store(sums, b.zeros("int32", 8), i * 8, 8)
        chunks = spec.tap_k // K_S8
        for tap in range(spec.taps):
            with T.serial(0, chunks) as chunk:
                a = [b.bind(b.cast(b.load(self.a, at + tap * spec.tap_stride + chunk * K_S8, 16), "int16x16")) for _, at in rows]
                for j in range(4):
                    w = b.bind(b.cast(b.load(self.w, w_at + ((tap * chunks + chunk) * 4 + j) * K_S8, 16), "int16x16"))
                    for i in range(len(rows)):
                        product = b.bind(a[i] * w)
                        halves = (
                            b.cast(b.intrinsic("int16x8", "llvm.vector.extract.v8i16.v16i16", product, T.int64(s)), "int32x8")
                            for s in (0, 8)
                        )
                        at = (i * 4 + j) * 8
                        b.store(sums, sums[T.Ramp(at, 1, 8)] + next(halves) + next(halves), at, 8)

        def total(at: int) -> Expr:
            return b.intrinsic("int32", "llvm.vector.reduce.add.v8i32", b.load(sums, at, 8))

        return [[b.bind(T.Shuffle([total((i * 4 + j) * 8) for j in range(4)], [0, 1, 2, 3]))] for i in range(len(rows))]

    def float_sums(self, rows: int, width: int, w_at: Expr) -> tuple[Expr, Callable[[list[Expr], Expr], None]]:
        """The sums of a tile, and a function that adds one k to them: (that k of every row in all lanes, where the next k's
        weights lie). Weights are loaded one k ahead, and halves loaded two and widened one k ahead, for the same reason as in
        the int8 kernel."""
        b, half = self.b, self.spec.weights == "f16"
        sums = b.scratch(rows * width)
        wide, raw = b.scratch(width), b.scratch(width, "float16") if half else None
        lanes = range(0, width, 4)
        for i in range(0, rows * width, 4):
            b.store(sums, b.splat(0.0), i)

        def fetch(at: Expr) -> None:
            if raw is None:
                for j in lanes:
                    b.store(wide, b.load(self.w, at + j), j)
                return
            halves = [b.load(raw, j) for j in lanes]
            for j, vector in zip(lanes, halves, strict=True):
                b.store(raw, b.load(self.w, at + width + j), j)
                b.store(wide, b.cast(vector, "float32x4"), j)

        def add(a: list[Expr], next_at: Expr) -> None:
            w = [b.load(wide, j) for j in lanes]
            fetch(next_at)
            b.fence()
            for j, vector in zip(lanes, w, strict=True):
                for i, value in enumerate(a):
                    to = i * width + j
                    b.store(sums, b.fma(value, vector, sums[T.Ramp(to, 1, 4)]), to)

        if raw is not None:
            for j in lanes:
                b.store(raw, b.load(self.w, w_at + j), j)
        fetch(w_at)
        return sums, add

    def floats(self, rows: list[tuple[Expr, Expr]], width: int, w_at: Expr) -> list[list[Expr]]:
        spec, b = self.spec, self.b
        vectors = width // 4
        sums, add = self.float_sums(len(rows), width, w_at)
        unroll = max(u for u in (1, 2, 4) if spec.tap_k % u == 0)
        chunks = spec.tap_k // unroll
        outer, inner = (spec.taps, chunks) if chunks > 1 else (1, spec.taps)
        step = unroll if chunks > 1 else spec.tap_stride
        with T.serial(0, outer) as tap:
            firsts = [b.bind(at + tap * spec.tap_stride) for _, at in rows]
            with T.serial(0, inner) as chunk:
                a = [b.load(self.a, at + chunk * step, unroll) for at in firsts]
                ask_ahead(spec, b, self.w, w_at + (tap * inner + chunk) * unroll * width, unroll * width)
                for lane in range(unroll):
                    scalars = [T.Shuffle([v], [lane]) if unroll > 1 else v for v in a]
                    next_at = w_at + ((tap * inner + chunk) * unroll + lane + 1) * width
                    add([b.splat(s) for s in scalars], next_at)
        return [[b.load(sums, (i * vectors + j) * 4) for j in range(vectors)] for i in range(len(rows))]
