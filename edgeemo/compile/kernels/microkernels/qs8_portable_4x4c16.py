"""Int8 micro-kernel for any vector unit: the sums of the NEON kernels from sign-extended int16 products, 4 x 4 tiles, 16 k."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets.capabilities import K_S8


def portable_tile(spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]], w_at: Expr) -> list[list[Expr]]:
    """One tile's sums, an int32x4 for each of ``rows`` (output row, first element of ``a``)."""
    sums = b.scratch(len(rows) * 32, "int32")
    for i in range(len(rows) * 4):
        b.store(sums, b.zeros("int32", 8), i * 8, 8)
    blocks = spec.tap_k // K_S8
    for tap in range(spec.taps):
        with T.serial(0, blocks) as block:
            values = [b.bind(b.cast(b.load(a, at + tap * spec.tap_stride + block * K_S8, 16), "int16x16")) for _, at in rows]
            for j in range(4):
                weights = b.bind(b.cast(b.load(w, w_at + ((tap * blocks + block) * 4 + j) * K_S8, 16), "int16x16"))
                for i in range(len(rows)):
                    product = b.bind(values[i] * weights)
                    halves = (
                        b.cast(b.intrinsic("int16x8", "llvm.vector.extract.v8i16.v16i16", product, T.int64(s)), "int32x8")
                        for s in (0, 8)
                    )
                    at = (i * 4 + j) * 8
                    b.store(sums, sums[T.Ramp(at, 1, 8)] + next(halves) + next(halves), at, 8)

    def total(at: int) -> Expr:
        return b.intrinsic("int32", "llvm.vector.reduce.add.v8i32", b.load(sums, at, 8))

    return [[b.bind(T.Shuffle([total((i * 4 + j) * 8) for j in range(4)], [0, 1, 2, 3]))] for i in range(len(rows))]
