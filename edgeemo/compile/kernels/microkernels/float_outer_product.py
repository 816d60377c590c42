"""Float micro-kernel: FMLA by element on a tile of 16 sums, float32 weights or halves that are widened (FCVTL).

The target's file gives rows x columns of a tile for either type. Weights are loaded one k ahead, and halves loaded two and
widened one k ahead, so that no multiplication waits for a load.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.microkernels.qs8_neon_mlal_4x4c16 import prefetch_weights
from edgeemo.compile.kernels.specs import Gemm


def accumulator(spec: Gemm, b: Builder, w: Expr, rows: int, width: int, w_at: Expr) -> tuple[Expr, Callable[..., None]]:
    """The sums of a tile, and a function add(that k of every row in all lanes, where the next k's weights lie)."""
    half = spec.kind == "f16"
    sums = b.scratch(rows * width)
    wide, raw = b.scratch(width), b.scratch(width, "float16") if half else None
    lanes = range(0, width, 4)
    for i in range(0, rows * width, 4):
        b.store(sums, b.splat(0.0), i)

    def fetch(at: Expr) -> None:
        if raw is None:
            for j in lanes:
                b.store(wide, b.load(w, at + j), j)
            return
        halves = [b.load(raw, j) for j in lanes]
        for j, vector in zip(lanes, halves, strict=True):
            b.store(raw, b.load(w, at + width + j), j)
            b.store(wide, b.cast(vector, "float32x4"), j)

    def add(a: list[Expr], next_at: Expr) -> None:
        weights = [b.load(wide, j) for j in lanes]
        fetch(next_at)
        b.scheduling_barrier()
        for j, vector in zip(lanes, weights, strict=True):
            for i, value in enumerate(a):
                to = i * width + j
                b.store(sums, b.fma(value, vector, sums[T.Ramp(to, 1, 4)]), to)

    if raw is not None:
        for j in lanes:
            b.store(raw, b.load(w, w_at + j), j)
    fetch(w_at)
    return sums, add


def float_tile(
    spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]], width: int, w_at: Expr
) -> list[list[Expr]]:
    """One tile's sums: for each of ``rows`` (output row, first element of ``a``) ``width`` / 4 float32x4."""
    vectors = width // 4
    sums, add = accumulator(spec, b, w, len(rows), width, w_at)
    unroll = max(u for u in (1, 2, 4) if spec.tap_k % u == 0)
    blocks = spec.tap_k // unroll
    outer, inner = (spec.taps, blocks) if blocks > 1 else (1, spec.taps)
    step = unroll if blocks > 1 else spec.tap_stride
    with T.serial(0, outer) as tap:
        firsts = [b.bind(at + tap * spec.tap_stride) for _, at in rows]
        with T.serial(0, inner) as block:
            values = [b.load(a, at + block * step, unroll) for at in firsts]
            prefetch_weights(spec, b, w, w_at + (tap * inner + block) * unroll * width, unroll * width)
            for lane in range(unroll):
                scalars = [T.Shuffle([v], [lane]) if unroll > 1 else v for v in values]
                next_at = w_at + ((tap * inner + block) * unroll + lane + 1) * width
                add([b.splat(s) for s in scalars], next_at)
    return [[b.load(sums, (i * vectors + j) * 4) for j in range(vectors)] for i in range(len(rows))]
