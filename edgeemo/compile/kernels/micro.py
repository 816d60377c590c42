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

if TYPE_CHECKING:
    from edgeemo.compile.kernels.gemm import Gemm

WEIGHT_BYTES = {"s8": 1, "f16": 2, "f32": 4}
UNROLL = 4  # chunks of 16 k in one iteration: loops of few iterations end as the branch predictor expects


class MicroKernels:
    """Emits them for one product: ``a`` and ``w`` are its buffers."""

    def __init__(self, spec: Gemm, b: Builder, a: Expr, w: Expr) -> None:
        self.spec, self.b, self.a, self.w = spec, b, a, w

    def s8_neon(self, rows: list[tuple[Expr, Expr]], w_at: Expr) -> list[list[Expr]]:
        """A software pipeline: every load stands well before its first use, and fences keep LLVM's scheduler from moving it
        there. The next chunk's first two columns of weights, which bring in its cache line, are loaded half a chunk ahead, a
        row's next 16 k where its register falls free. So the multiplier never waits: 32 cycles for the 32 products of a chunk."""
        spec, b = self.spec, self.b
        sums = b.scratch(len(rows) * 16, "int32")
        held = b.scratch((2 + len(rows)) * 16, "int8")  # two columns of weights, then the rows
        chunks = spec.tap_k // K_S8
        unroll = max(u for u in range(1, UNROLL + 1) if chunks % u == 0)

        def half(v: Expr, start: int) -> Expr:
            return b.intrinsic("int8x8", "llvm.vector.extract.v8i8.v16i8", v, T.int64(start))

        def hold(place: int, value: Expr) -> None:
            b.store(held, value, place * 16, 16)

        def one_chunk(tap: int, chunk: Expr) -> None:
            w_chunk = w_at + (tap * chunks + chunk) * 4 * K_S8
            a = [b.load(held, (2 + i) * 16, 16) for i in range(len(rows))]
            w = [b.load(held, j * 16, 16) for j in range(2)]
            w += [b.load(self.w, w_chunk + j * K_S8, 16) for j in (2, 3)]
            self._ask_ahead(w_chunk, 4 * K_S8)
            b.fence()
            for j in range(4):
                if j == 2:
                    for ahead in range(2):
                        hold(ahead, b.load(self.w, w_chunk + (4 + ahead) * K_S8, 16))
                    b.fence()
                for i, (_, at) in enumerate(rows):
                    low, high = (
                        b.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", half(a[i], s), half(w[j], s)) for s in (0, 8)
                    )
                    wide = b.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", low + high)
                    to = (i * 4 + j) * 4
                    b.store(sums, sums[T.Ramp(to, 1, 4)] + wide, to)
                    if j == 3:
                        hold(2 + i, b.load(self.a, at + tap * spec.tap_stride + (chunk + 1) * K_S8, 16))
                        b.fence()

        for i in range(len(rows) * 4):
            b.store(sums, b.zeros("int32", 4), i * 4)
        for j in range(2):
            hold(j, b.load(self.w, w_at + j * K_S8, 16))
        for tap in range(spec.taps):
            for i, (_, at) in enumerate(rows):
                hold(2 + i, b.load(self.a, at + tap * spec.tap_stride, 16))
            with T.serial(0, chunks // unroll) as outer:
                for inner in range(unroll):
                    one_chunk(tap, outer * unroll + inner)

        return [[b.sums_of([b.load(sums, (i * 4 + j) * 4) for j in range(4)])] for i in range(len(rows))]

    def _ask_ahead(self, at: Expr, elements: int) -> None:
        """For as many weights, the target's distance further on: perhaps the next layer's (WeightBlob leaves room)."""
        self.b.ask_for(self.w, at + self.b.target.ahead_bytes // WEIGHT_BYTES[self.spec.weights], elements)

    def s8_portable(self, rows: list[tuple[Expr, Expr]], w_at: Expr) -> list[list[Expr]]:
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
                self._ask_ahead(w_at + (tap * inner + chunk) * unroll * width, unroll * width)
                for lane in range(unroll):
                    scalars = [T.Shuffle([v], [lane]) if unroll > 1 else v for v in a]
                    next_at = w_at + ((tap * inner + chunk) * unroll + lane + 1) * width
                    add([b.splat(s) for s in scalars], next_at)
        return [[b.load(sums, (i * vectors + j) * 4) for j in range(vectors)] for i in range(len(rows))]
