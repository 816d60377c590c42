"""Products of two activations, matrix by matrix: out[b, m, n] = scale * sum_k a[b, m, k] w[b, k, n], in float32.

Attention without a cache is made of these. Nothing is packed: w is read where it lies, a column tile's rows n elements apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, kernel
from edgeemo.compile.kernels.pack import column_tiles
from edgeemo.compile.kernels.specs import KernelSpec
from edgeemo.targets.board import KernelTarget

ROWS, COLUMNS = 4, 16  # of a tile: 16 sums in registers


@dataclass(frozen=True)
class BatchedProduct(KernelSpec):
    matrices: int  # per stream
    rows: int
    k: int
    n: int  # multiple of 4
    scale: float = 1.0

    @property
    def name(self) -> str:
        return f"product_f32_{self.matrices}x{self.rows}_k{self.k}_n{self.n}"

    @property
    def macs(self) -> int:
        return self.matrices * self.rows * self.k * self.n


def build(spec: BatchedProduct, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, a, w, out)."""
    if spec.n % 4:
        raise ValueError("columns go by fours: n must be a multiple of 4")
    with kernel(spec.name, target) as (b, batch):
        a, w, out = b.pointers({"a": "float32", "w": "float32", "out": "float32"}).values()
        with T.serial(0, batch * spec.matrices) as matrix:
            places = [b.bind(matrix * size) for size in (spec.rows * spec.k, spec.k * spec.n, spec.rows * spec.n)]
            whole = spec.n // COLUMNS
            with T.serial(0, whole) as tile:
                _columns(spec, b, (a, w, out), places, b.bind(tile * COLUMNS), COLUMNS)
            for column, width in column_tiles(spec.n, COLUMNS)[whole:]:
                _columns(spec, b, (a, w, out), places, column, width)
    return b.result


def _columns(
    spec: BatchedProduct, b: Builder, buffers: tuple[Expr, Expr, Expr], places: list[Expr], column: Expr, width: int
) -> None:
    """All rows of one column tile: its part of w stays in L1 meanwhile."""
    with T.serial(0, spec.rows // ROWS) as tile:
        _tile(spec, b, buffers, places, b.bind(tile * ROWS), ROWS, column, width)
    if rest := spec.rows % ROWS:
        _tile(spec, b, buffers, places, spec.rows - rest, rest, column, width)


def _tile(
    spec: BatchedProduct,
    b: Builder,
    buffers: tuple[Expr, Expr, Expr],
    places: list[Expr],
    row: Expr,
    rows: int,
    column: Expr,
    width: int,
) -> None:
    a, w, out = buffers
    sums = b.scratch(rows * width)
    lanes = range(0, width, 4)
    for i in range(0, rows * width, 4):
        b.store(sums, b.splat(0.0), i)
    firsts = [b.bind(places[0] + (row + i) * spec.k) for i in range(rows)]
    unroll = max(u for u in (1, 2, 4) if spec.k % u == 0)
    with T.serial(0, spec.k // unroll) as chunk:
        values = [b.load(a, at + chunk * unroll, unroll) for at in firsts]
        for lane in range(unroll):
            w_at = b.bind(places[1] + (chunk * unroll + lane) * spec.n + column)
            vectors = [b.load(w, w_at + j) for j in lanes]
            for i, value in enumerate(values):
                scalar = b.splat(T.Shuffle([value], [lane]) if unroll > 1 else value)
                for j, vector in zip(lanes, vectors, strict=True):
                    to = i * width + j
                    b.store(sums, b.fma(scalar, vector, sums[T.Ramp(to, 1, 4)]), to)
    for i in range(rows):
        at = b.bind(places[2] + (row + i) * spec.n + column)
        for j in lanes:
            value = b.load(sums, i * width + j)
            b.store(out, value if spec.scale == 1.0 else value * b.splat(spec.scale), at + j)
