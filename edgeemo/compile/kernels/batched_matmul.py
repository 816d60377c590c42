"""Products matrix by matrix: out[b, m, n] = scale * sum_k a[b, m, k] w[b, k, n], in float32; w is an activation, or constant
matrices that all items share.

Attention without a cache is made of these, and attention by relative positions. Nothing is packed: w is read where it lies, a
column tile's rows n elements apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, kernel
from edgeemo.compile.kernels.specs import KernelSpec
from edgeemo.targets.board import KernelTarget

ROWS, COLUMNS = 4, 16  # of a tile: 16 sums in registers


@dataclass(frozen=True)
class BatchedProduct(KernelSpec):
    matrices: int  # per stream
    rows: int
    k: int
    n: int
    scale: float = 1.0
    shared: bool = False  # w: of all items

    @property
    def name(self) -> str:
        return f"product_f32_{self.matrices}x{self.rows}_k{self.k}_n{self.n}{'_shared' if self.shared else ''}"

    def times(self, factor: float) -> BatchedProduct:
        """With all results multiplied by a factor."""
        return replace(self, scale=self.scale * factor)

    @property
    def macs(self) -> int:
        return self.matrices * self.rows * self.k * self.n


def build(spec: BatchedProduct, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, a, w, out)."""
    with kernel(spec.name, target) as (b, batch):
        a, w, out = b.pointers({"a": "float32", "w": "float32", "out": "float32"}).values()
        with T.serial(0, batch * spec.matrices) as matrix:
            of_w = T.truncmod(matrix, spec.matrices) if spec.shared else matrix
            sizes = spec.rows * spec.k, spec.k * spec.n, spec.rows * spec.n
            places = [b.bind(at * size) for at, size in zip((matrix, of_w, matrix), sizes, strict=True)]
            whole = spec.n // COLUMNS
            with T.serial(0, whole) as tile:
                _columns(spec, b, (a, w, out), places, b.bind(tile * COLUMNS), COLUMNS)
            fours = spec.n // 4 * 4
            for column, width in ((whole * COLUMNS, fours - whole * COLUMNS), (fours, spec.n - fours)):
                if width:
                    _columns(spec, b, (a, w, out), places, column, width)
    return b.result


def _columns(
    spec: BatchedProduct, b: Builder, buffers: tuple[Expr, Expr, Expr], places: list[Expr], column: Expr, width: int
) -> None:
    """All rows of one column tile, of fours or of fewer than four: its part of w stays in L1 meanwhile."""
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
    wide = 4 if width % 4 == 0 else 1  # nothing beyond a matrix is read
    lanes = range(0, width, wide)
    for i in range(0, rows * width, wide):
        b.store(sums, b.splat(0.0) if wide == 4 else T.float32(0), i, wide)
    firsts = [b.bind(places[0] + (row + i) * spec.k) for i in range(rows)]
    unroll = max(u for u in (1, 2, 4) if spec.k % u == 0)
    with T.serial(0, spec.k // unroll) as chunk:
        values = [b.load(a, at + chunk * unroll, unroll) for at in firsts]
        for lane in range(unroll):
            w_at = b.bind(places[1] + (chunk * unroll + lane) * spec.n + column)
            vectors = [b.load(w, w_at + j, wide) for j in lanes]
            for i, value in enumerate(values):
                scalar = T.Shuffle([value], [lane]) if unroll > 1 else value
                factor = b.splat(scalar) if wide == 4 else scalar
                for j, vector in zip(lanes, vectors, strict=True):
                    to = i * width + j
                    before = sums[T.Ramp(to, 1, 4)] if wide == 4 else sums[to]
                    b.store(sums, b.fma(factor, vector, before, wide), to, wide)
    for i in range(rows):
        at = b.bind(places[2] + (row + i) * spec.n + column)
        for j in lanes:
            value = b.load(sums, i * width + j, wide)
            scale = b.splat(spec.scale) if wide == 4 else T.float32(spec.scale)
            b.store(out, value if spec.scale == 1.0 else value * scale, at + j, wide)
