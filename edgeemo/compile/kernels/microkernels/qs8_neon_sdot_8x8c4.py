"""Int8 micro-kernel for NEON with dot products (ARMv8.2, FEAT_DotProd): SDOT by element on tiles of 8 rows x 8 columns, 4 k of
four columns at a time.

An SDOT adds sixteen products to four int32, exactly for every int8: no int16 lane in between that would limit activations or
weights. A vector of weights holds 4 k of four columns, an element of the other operand 4 k of a row, so that a lane is a column's
sum and nothing is left to add across lanes. 64 SDOT take 16 loads and 32 cycles of a core with two vector pipes that have it, and
128 bytes of weights: less a cycle than DRAM gives, so that the first rows hide what the others find in L1. Such cores (Cortex-A76
and later) reorder over more than a block, so that nothing is pipelined by hand here, and the epilogue follows its tile.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.microkernels.qs8_neon_mlal_4x4c16 import prefetch_weights
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets.capabilities import K_S8, QUAD_K_S8

UNROLL_K = 16  # k in one iteration, at most
FEW_ROWS = 2  # with so few or less two sums of every result hide the latency of SDOT


def sdot_tile(
    spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]], width: int, w_at: Expr
) -> list[list[Expr]]:
    """One tile's sums: for each of ``rows`` (output row, first element of ``a``) ``width`` / 4 int32x4."""
    size = len(rows) * width
    copies = 2 if len(rows) <= FEW_ROWS else 1
    sums = b.scratch(copies * size, "int32")
    for i in range(0, copies * size, 4):
        b.store(sums, b.zeros("int32", 4), i)
    blocks = spec.tap_k // K_S8
    unroll = max(u for u in range(1, UNROLL_K // K_S8 + 1) if blocks % u == 0)

    def add(w_block: Expr, a_block: Expr) -> None:
        prefetch_weights(spec, b, w, w_block, width * K_S8)
        values = [b.bind(T.reinterpret("int32x4", b.load(a, at + a_block, K_S8))) for _, at in rows]
        for quad in range(K_S8 // QUAD_K_S8):
            weights = [b.load(w, w_block + (quad * width + j) * QUAD_K_S8, K_S8) for j in range(0, width, 4)]
            for i, value in enumerate(values):
                element = T.reinterpret("int8x16", T.Broadcast(T.Shuffle([value], [quad]), 4))
                for j, vector in enumerate(weights):
                    to = quad % copies * size + i * width + 4 * j
                    b.store(sums, b.dot_product(b.load(sums, to), vector, element), to)

    with T.serial(0, spec.taps) as tap, T.serial(0, blocks // unroll) as turn:
        for inner in range(unroll):
            block = turn * unroll + inner
            add(w_at + (tap * blocks + block) * (width * K_S8), tap * spec.tap_stride + block * K_S8)

    def total(at: int) -> Expr:
        first = b.load(sums, at)
        return b.bind(first + b.load(sums, size + at)) if copies == 2 else first

    return [[total(i * width + j) for j in range(0, width, 4)] for i in range(len(rows))]
