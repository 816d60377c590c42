"""The inner loops of the products (kernels/gemm.py): the sums of one tile of output, left in registers.

Each takes a tile's rows as (output row, first element of a), and the first element of its weights; it gives per row the sums in
vectors of four. Type, instructions, rows x columns of a tile (the target's file gives those of floats):

    s8_neon      SMULL + SMLAL2 + SADALP, 4 x 4: 16 sums in registers, 16 k of every row and column per turn
                 |a| <= 128 and |w| <= 127, so two products fit an int16 lane before SADALP widens them
    s8_neon in pairs  ADD x 2, SMULL + SMLAL2 + SADALP, 4 x 4 or 3 x 4, 32 k per turn: where |a| + |w| <= 127
    s8_portable  the same sums from sign-extended int16 products, any vector unit
    f32          FMLA by element: 16 sums, the next k's weights loaded ahead
    f16          f32 with w loaded as half and widened (FCVTL): FP16 storage, FP32 arithmetic
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.interleave import NOTHING, Take
from edgeemo.compile.kernels.microkernels.qs8_neon import S8Neon, S8Pairs, Terms, ask_ahead, give_pairs, is_straight
from edgeemo.targets.capabilities import K_S8

if TYPE_CHECKING:
    from edgeemo.compile.kernels.gemm import Gemm


class MicroKernels:
    """Emits them for one product: ``a`` and ``w`` are its buffers."""

    def __init__(self, spec: Gemm, b: Builder, a: Expr, w: Expr) -> None:
        self.spec, self.b, self.a, self.w = spec, b, a, w
        self.terms = Terms(b) if spec.pairs else None

    def columns(self, number: Expr) -> None:
        """All rows pass by anew for columns of a block of this number."""
        if self.terms is not None:
            self.terms.begin(number)

    def s8_rows(self, rows: list[tuple[Expr, Expr]]) -> S8Neon | None:
        """What the int8 tiles of these rows have in common, on NEON."""
        if not self.b.neon or self.spec.weights != "s8":
            return None
        if self.terms is not None:
            return S8Pairs(self.spec, self.b, self.a, self.w, rows, self.terms)
        return S8Neon(self.spec, self.b, self.a, self.w, rows)

    def s8(self, rows: list[tuple[Expr, Expr]], neon: S8Neon | None, w_at: Expr) -> list[list[Expr]]:
        """One int8 tile by itself."""
        if neon is None:
            return self._s8_portable(rows, w_at)
        parts: list[Expr] = []
        neon.begin(w_at)
        neon.tile(w_at, NOTHING)
        give_pairs(self.b, neon.acc, len(rows), lambda row, part, sums: parts.append(sums))
        return [[self.b.pair_sums(*parts[i : i + 2])] for i in range(0, len(parts), 2)]

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
