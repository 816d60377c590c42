"""Int8 micro-kernel for NEON with dot products (ARMv8.2, FEAT_DotProd): SDOT on tiles of 4 rows x 4 columns, 16 k at a time.

An SDOT adds sixteen products to four int32, exactly for every int8: no int16 lane in between that would limit activations or
weights. Weights are packed as for qs8_neon_mlal_4x4c16. A block of 16 k takes eight loads and sixteen SDOT, eight cycles of a
core with two vector pipes that have it. Such cores (Cortex-A76 and later) reorder over more than a block, so that nothing is
pipelined by hand here, and the epilogue follows its tile.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.microkernels.qs8_neon_mlal_4x4c16 import prefetch_weights
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets.capabilities import COLUMNS_S8, K_S8

UNROLL_K = 64  # k in one iteration, at most: a line of each row's activations


def sdot_tile(spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]], w_at: Expr) -> list[list[Expr]]:
    """One tile's sums, an int32x4 for each of ``rows`` (output row, first element of ``a``)."""
    sums = b.scratch(len(rows) * COLUMNS_S8 * 4, "int32")
    for i in range(len(rows) * COLUMNS_S8):
        b.store(sums, b.zeros("int32", 4), i * 4)
    blocks = spec.tap_k // K_S8
    unroll = max(u for u in range(1, UNROLL_K // K_S8 + 1) if blocks % u == 0)

    def add(w_block: Expr, a_block: Expr) -> None:
        prefetch_weights(spec, b, w, w_block, COLUMNS_S8 * K_S8)
        values = [b.load(a, at + a_block, K_S8) for _, at in rows]
        for j in range(COLUMNS_S8):
            weights = b.load(w, w_block + j * K_S8, K_S8)
            for i, value in enumerate(values):
                at = (i * COLUMNS_S8 + j) * 4
                b.store(sums, b.dot_product(b.load(sums, at), value, weights), at)

    with T.serial(0, spec.taps) as tap, T.serial(0, blocks // unroll) as turn:
        for inner in range(unroll):
            block = turn * unroll + inner
            add(w_at + (tap * blocks + block) * (COLUMNS_S8 * K_S8), tap * spec.tap_stride + block * K_S8)
    return [[b.sums_of([b.load(sums, (i * COLUMNS_S8 + j) * 4) for j in range(COLUMNS_S8)])] for i in range(len(rows))]
