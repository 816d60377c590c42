"""Loop nest of matrix products and convolutions with constant weights: out[m, n] = epilogue(sum_k a[m, k] w[k, n]).

A convolution over time-major activations is the same product with other strides: row j of a stream starts ``row_stride``
elements after row j - 1 and is made of ``taps`` runs of ``tap_k`` elements, ``tap_stride`` apart. Nothing is copied to columns.

A tile of output is computed by a micro-kernel (microkernels/), whose sums the epilogue (epilogue.py) takes while they are in
registers. Weights are packed so that a micro-kernel reads them front to back (pack.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeemo_runtime.errors import EdgeEmoError
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, kernel
from edgeemo.compile.kernels.epilogue import DeferredTile, Epilogue
from edgeemo.compile.kernels.interleave import NO_EPILOGUE, DeferredEpilogue, InRegisters, round_robin
from edgeemo.compile.kernels.microkernels.f16_neon_fmla_4x32 import F16NeonFmla
from edgeemo.compile.kernels.microkernels.float_outer_product import accumulator, float_tile
from edgeemo.compile.kernels.microkernels.qs8_neon_mlal_4x4c16 import (
    HALVES,
    WEIGHT_BYTES,
    Qs8NeonMlal,
    is_fully_unrolled,
    reduce_pairwise,
    tile_rows,
)
from edgeemo.compile.kernels.microkernels.qs8_neon_sdot_8x8c4 import sdot_tile
from edgeemo.compile.kernels.microkernels.qs8_neon_winograd_4x4c32 import Qs8NeonWinograd
from edgeemo.compile.kernels.microkernels.qs8_portable_4x4c16 import portable_tile
from edgeemo.compile.kernels.pack import column_tiles
from edgeemo.compile.kernels.row_terms import RowTermCache
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.compile.kernels.vector_math import activation_cost
from edgeemo.targets.board import KernelTarget
from edgeemo.targets.capabilities import COLUMNS_S8, K_S8, WINOGRAD_K_S8, round_up

MAX_OPS_PER_MULTIPLICATION = 2  # of a deferred epilogue
UNROLLED_GROUPS = {"s8": 1, "f16": 2, "f32": 2}
UNROLLED_TILES = {"s8": 1, "f16": 16, "f32": 16}  # of a stream's rows; those of int8 are long, and as quick in a loop
UNROLLED_ACTIVATED = 4  # where an activation follows, which is most of a tile's code
OVERLAP_ROWS = 64  # of a stream: from there on the last tile may compute rows again, instead of a tile for every remainder
ROWS_TOGETHER = 4  # of a tile of dot products: eight vectors by turns in the epilogue
UNROLLED_OPS = 2000  # of activations of all a float kernel's tiles: more of them are a loop over a tile's columns
WEIGHT_DTYPES = {"s8": "int8", "f16": "float16", "f32": "float32"}
Rows = list[tuple[Expr, Expr]]  # of a tile: output row, first element of a
TileEmitter = Qs8NeonMlal | F16NeonFmla


def _parameters(spec: Gemm) -> dict[str, str]:
    """Pointers in calling order, with their dtypes."""
    dtypes = {"a": "int8" if spec.kind == "s8" else "float32", "w": WEIGHT_DTYPES[spec.kind]}
    dtypes |= {"index": "int32"} if spec.nonzero_k else {}
    dtypes |= {"offset": "int32"} if spec.winograd else {}
    dtypes |= {"scale": "float32"} if spec.kind == "s8" else {}
    dtypes |= {"bias": "float32"} if spec.bias else {}
    dtypes |= {"residual": "float32"} if spec.residual else {}
    dtypes |= {"out_inverse_scale": "float32"} if spec.quantize and not spec.requant_folded else {}
    return dtypes | {"out": "int8" if spec.quantize else "float32"}


class _Emitter:
    """Emits one kernel's body: loops over tiles, a micro-kernel, the epilogue."""

    def __init__(self, spec: Gemm, b: Builder) -> None:
        self.spec, self.b, self.tile = spec, b, b.target.tile(spec.kind, spec.microkernel)
        self.whole = tile_rows(spec)  # rows of a tile, but for those of halves
        pointers = b.pointers(_parameters(spec))
        self.a, self.w = pointers["a"], pointers["w"]
        self.index: Expr = pointers.get("index")
        self.row_terms = RowTermCache(b) if spec.winograd or spec.half_arithmetic else None
        self.epilogue = Epilogue(spec, b, pointers)
        # Epilogues are deferred among NEON's int8 multiplications: of rows that begin at whole words of the output, which four
        # results are stored as, if there are multiplications enough. The first block's have the reduction of the tile before.
        k_per_block = WINOGRAD_K_S8 if spec.winograd else K_S8
        room = MAX_OPS_PER_MULTIPLICATION * COLUMNS_S8 * (spec.taps * spec.tap_k // k_per_block - 1)
        words = not (spec.quantize and spec.group_n % 4)
        self.defers = b.neon and spec.pairwise and words and self.epilogue.ops_per_row <= room
        if spec.sdot:
            self.epilogue.keep_constants_in_memory()
        if self.defers:
            self.spill = self.epilogue.allocate_spill_slots()

    # -- loops -----------------------------------------------------------------------------------------------------------
    def body(self, batch: Expr) -> None:
        spec = self.spec
        k = spec.taps * spec.tap_k
        width = self.tile[1]
        if spec.nonzero_k:
            self._sparse(batch)
            return
        if self.defers:
            with T.If(batch * spec.rows >= self.whole if spec.flat else batch > 0), T.Then():
                self.epilogue.store_constants()
        for group in self._groups():
            base = group * round_up(spec.group_n, 4) * k
            whole = spec.group_n // width
            if whole:
                self._column_blocks(batch, group, whole, width, base)
            for start, rest in column_tiles(spec.group_n, width)[whole:]:
                self._begin_column_block(0)
                for rows in self._row_tiles(batch):
                    bound = self._bound(rows, group)
                    self._tile(bound, self._emitter_of(bound), group, start, rest, base + start * k)

    def _sparse(self, batch: Expr) -> None:
        """Each column tile with the k it keeps, which an index names."""
        spec, b = self.spec, self.b
        first = w_at = 0
        for (column, width), count in zip(column_tiles(spec.n, self.tile[1]), spec.nonzero_k, strict=True):
            for rows in self._row_tiles(batch):
                rows = [(b.bind(out), b.bind(a)) for out, a in rows]
                sums, add = accumulator(spec, b, self.w, len(rows), width, w_at)
                with T.serial(0, count) as i:
                    k = b.bind(self.index[first + i])
                    add([b.splat(b.load(self.a, at + k, 1)) for _, at in rows], w_at + (i + 1) * width)
                values = [[b.load(sums, i * width + j) for j in range(0, width, 4)] for i in range(len(rows))]
                for j in range(width // 4):
                    self.epilogue.apply([[v[j]] for v in values], [out for out, _ in rows], 0, column + 4 * j)
            first, w_at = first + count, w_at + count * width

    def _groups(self) -> Iterator[Expr]:
        """One after another in the code, or a loop where that would be long."""
        if self.spec.groups <= UNROLLED_GROUPS[self.spec.kind]:
            yield from range(self.spec.groups)
            return
        with T.serial(0, self.spec.groups) as group:
            yield group

    def _column_blocks(self, batch: Expr, group: Expr, tiles: int, width: int, base: int) -> None:
        """Column tiles in blocks whose weights stay in L1 while the rows pass by: without, every column tile reads all rows of a
        anew, and those do not fit L1 next to it (24 rows of 1024 are 24 KiB)."""
        tile_bytes = self.spec.taps * self.spec.tap_k * width * WEIGHT_BYTES[self.spec.kind]
        fitting = max(1, self.b.target.block_bytes // tile_bytes)
        block = max(d for d in range(1, tiles + 1) if tiles % d == 0 and d <= fitting)
        run = self.spec.taps * self.spec.tap_k * width
        pending = self._deferred_tiles(batch, group)
        with T.serial(0, tiles // block) as outer:
            self._begin_column_block(outer)
            for rows in self._row_tiles(batch):
                rows = self._bound(rows, group)
                before = pending.get(len(rows))
                emitter = self._emitter_of(rows)
                neon = emitter if isinstance(emitter, Qs8NeonMlal) else None
                if before is not None and neon is not None:
                    neon.prologue(base + outer * block * run, before.acc)
                with T.serial(0, block) as inner:
                    tile = self.b.bind(outer * block + inner)
                    if before is None or neon is None:
                        self._tile(rows, emitter, group, tile * width, width, base + tile * run)
                    else:
                        neon.main_loop(base + tile * run, self._deferred_epilogue(before))
                        self._defer(before, rows[0][0], group, tile * width)
        for before in pending.values():
            with T.If(before.exists), T.Then():
                self._drain(before)

    def _deferred_tiles(self, batch: Expr, group: Expr) -> dict[int, DeferredTile]:
        """Int8 tiles whose epilogue is yet to come, by the number of their rows. What is left of all rows is a tile or none: that
        one's epilogue follows at once."""
        spec, b = self.spec, self.b
        if not self.defers:
            return {}
        block = spec.rows_per_block or spec.rows
        full = block // self.whole * self.whole
        if spec.flat:
            first = {self.whole: (0, batch * spec.rows >= self.whole)}
        else:
            first = {rows: (row, batch > 0) for rows, row in ((self.whole, 0), (block - full, full)) if 0 < rows <= block}
        pending = {}
        for rows, (row, any_) in first.items():
            position, acc = b.scratch(2, "int32"), b.scratch(rows * 16, "int32")
            pending[rows] = DeferredTile(rows, b.bind(any_), position, acc, self.spill.allocate(rows * HALVES))
            self._defer(pending[rows], row, group, 0)
            for i in range(0, rows * 16, 4):
                b.store(acc, b.zeros("int32", 4), i)
        return pending

    def _defer(self, pending: DeferredTile, row: Expr, group: Expr, column: Expr) -> None:
        """The tile that is pending from now on begins at this row of the output and column of the group."""
        spec, b = self.spec, self.b
        b.store(pending.position, row * spec.n + group * spec.group_n + column, 0, 1)
        b.store(pending.position, group * round_up(spec.group_n, 4) + column, 1, 1)

    def _row_tiles(self, batch: Expr) -> Iterator[Rows]:
        """Within loops over all rows, yields tiles of rows as (output row, first element of a)."""
        spec = self.spec
        # Tiles over several streams pay for halves, whose widening the rows share; bytes gain nothing by them but code.
        if not spec.flat and (spec.rows % self.whole == 0 or spec.kind == "s8" or spec.rows_per_block not in (0, spec.rows)):
            with T.serial(0, batch) as stream:
                yield from self._stream_tiles(stream)
            return
        whole, total = self.whole, self.b.bind(batch * spec.rows)
        size = whole if spec.kind == "s8" and not spec.sdot else self.tile[0]
        lefts = {spec.rows * streams % whole for streams in range(1, whole)} - {0}
        overlaps = lefts and spec.rows >= OVERLAP_ROWS
        done: Expr = T.int32(0)
        if size > whole or not overlaps:
            with T.serial(0, total // size) as tile:
                yield [self._row(tile * size + i) for i in range(size)]
            done = self.b.bind(total // size * size)
        if overlaps:
            with T.serial(0, (total - done + (whole - 1)) // whole) as tile:
                first = self.b.bind(T.min(done + tile * whole, total - whole))
                yield [self._row(first + i) for i in range(whole)]
            return
        if size > whole:
            with T.If(total - done >= whole), T.Then():
                yield [self._row(done + i) for i in range(whole)]
            done = self.b.bind(total // whole * whole)
        # A tile of its own for every remainder: row by row would cost three times as much.
        for left in sorted(lefts):
            with T.If(total - done == left), T.Then():
                yield [self._row(done + i) for i in range(left)]

    def _row(self, row: Expr) -> tuple[Expr, Expr]:
        """An output row, counted over all streams, with its first element of a."""
        spec = self.spec
        if spec.flat:
            return row, row * spec.row_stride
        row = self.b.bind(row)
        stream = self.b.bind(T.truncdiv(row, spec.rows))
        return row, stream * spec.stream_stride + (row - stream * spec.rows) * spec.row_stride

    def _stream_tiles(self, stream: Expr) -> Iterator[Rows]:
        spec = self.spec
        block = spec.rows_per_block or spec.rows
        start, row = stream * spec.stream_stride, stream * spec.rows
        if block == spec.rows:
            yield from self._block_tiles(row, start, block)
            return
        with T.serial(0, spec.rows // block) as outer:
            yield from self._block_tiles(row + outer * block, start + outer * spec.block_stride, block)

    def _block_tiles(self, row: Expr, start: Expr, rows: int) -> Iterator[Rows]:
        first = 0
        unrolled = 1 if self.spec.half_arithmetic else UNROLLED_TILES[self.spec.kind]
        if activation_cost(self.spec.activation, True)[0]:
            unrolled = 1 if self._activation_ops() > UNROLLED_OPS else min(UNROLLED_ACTIVATED, unrolled)
        if rows // self.whole > unrolled:
            row, start = self.b.bind(row), self.b.bind(start)
            with T.serial(0, rows // self.whole) as tile:
                yield self._rows_from(row + tile * self.whole, start + tile * (self.whole * self.spec.row_stride), 0, self.whole)
            first = rows // self.whole * self.whole
        yield from (self._rows_from(row, start, at, rows) for at in range(first, rows, self.whole))

    def _rows_from(self, row: Expr, start: Expr, first: int, end: int) -> Rows:
        return [(row + j, start + j * self.spec.row_stride) for j in range(first, min(first + self.whole, end))]

    def _tile(self, rows: Rows, emitter: TileEmitter | None, group: Expr, column: Expr, width: int, w_at: Expr) -> None:
        """One tile: ``rows`` are (output row, first element of a); ``column`` counts within the group."""
        spec, b = self.spec, self.b
        if isinstance(emitter, F16NeonFmla):
            sums = emitter.tile(width, w_at)
        elif spec.kind != "s8":
            sums = float_tile(spec, b, self.a, self.w, rows, width, w_at)
        elif spec.sdot:
            sums = sdot_tile(spec, b, self.a, self.w, rows, width, w_at)
        elif emitter is None:
            sums = portable_tile(spec, b, self.a, self.w, rows, w_at)
        else:
            sums = self._neon_tile(emitter, w_at)
        places = [out for out, _ in rows]
        if spec.kind != "s8" and self._activation_ops() > UNROLLED_OPS and width > 4 and spec.group_n % 4 == 0:
            self._epilogue_loop(sums, places, group, column)
            return
        if spec.sdot:
            for first in range(0, len(rows), ROWS_TOGETHER):
                part = slice(first, first + ROWS_TOGETHER)
                self.epilogue.apply(sums[part], places[part], group, column)
            return
        for j in range(width // 4):
            self.epilogue.apply([[s[j]] for s in sums], places, group, column + 4 * j)

    def _activation_ops(self) -> int:
        """Operations of the activation in the code, were it written out for all kinds of tiles (see _row_tiles)."""
        spec, whole = self.spec, self.whole
        rest = sum(range(1, whole)) if spec.flat else spec.rows % whole
        tiles = self.tile[0] + whole if spec.flat else min(spec.rows // whole, UNROLLED_ACTIVATED) * whole
        return (tiles + (rest if spec.rows % whole else 0)) * self.tile[1] // 4 * activation_cost(spec.activation, True)[0]

    def _epilogue_loop(self, sums: list[list[Expr]], rows: list[Expr], group: Expr, column: Expr) -> None:
        """The epilogue as a loop over a tile's columns, whose sums go through memory: shorter code."""
        b, vectors = self.b, len(sums[0])
        waiting = b.scratch(len(sums) * vectors * 4)
        for i, row in enumerate(sums):
            for j, value in enumerate(row):
                b.store(waiting, value, (i * vectors + j) * 4)
        with T.serial(0, vectors) as j:
            values = [b.load(waiting, (i * vectors + j) * 4) for i in range(len(sums))]
            self.epilogue.apply([[v] for v in values], rows, group, b.bind(column + j * 4))

    def _emitter_of(self, rows: Rows) -> TileEmitter | None:
        """Emitter of all tiles of these rows; None for kernels whose tiles know nothing of each other."""
        if self.spec.half_arithmetic and self.row_terms is not None:
            return F16NeonFmla(self.spec, self.b, self.a, self.w, rows, self.row_terms)
        if not self.b.neon or not self.spec.pairwise:
            return None
        if self.row_terms is not None:
            return Qs8NeonWinograd(self.spec, self.b, self.a, self.w, rows, self.row_terms)
        return Qs8NeonMlal(self.spec, self.b, self.a, self.w, rows)

    def _neon_tile(self, neon: Qs8NeonMlal, w_at: Expr) -> list[list[Expr]]:
        """One tile by itself, its sums not deferred."""
        parts: list[Expr] = []
        neon.prologue(w_at)
        neon.main_loop(w_at, NO_EPILOGUE)
        reduce_pairwise(self.b, neon.acc, len(neon.rows), lambda row, part, sums: parts.append(sums))
        return [[self.b.pair_sums(*parts[i : i + 2])] for i in range(0, len(parts), 2)]

    def _begin_column_block(self, block: Expr) -> None:
        if self.row_terms is not None:
            self.row_terms.begin_column_block(block)

    def _deferred_epilogue(self, tile: DeferredTile) -> DeferredEpilogue:
        def sink(row: int, part: int, sums: Expr) -> None:
            self.spill.store(T.reinterpret("float32x4", sums), tile.sums + row * HALVES + part)

        ops = self.epilogue.ops_per_row
        return DeferredEpilogue(self.spill, lambda: self.epilogue.deferred_ops(tile, self.spill), sink, ops)

    def _drain(self, tile: DeferredTile) -> None:
        """The epilogue of the last tile, which no other follows."""
        if is_fully_unrolled(self.spec, tile.rows):
            reduce_pairwise(self.b, tile.acc, tile.rows, self._deferred_epilogue(tile).sink)
        row_ops = self.epilogue.deferred_ops(tile, InRegisters(self.b))
        round_robin(*(row_ops(row) for row in range(tile.rows)))

    def _bound(self, rows: Rows, group: Expr) -> Rows:
        """A tile's rows with the first element of their group."""
        return [(self.b.bind(out), self.b.bind(a + group * self.spec.tap_k)) for out, a in rows]


def build(spec: Gemm, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, a, w, [index], [offset], [scale], [bias], [residual], [out_inverse_scale], out)."""
    if spec.residual and spec.group_n % 4:
        raise EdgeEmoError(
            f"{spec.name}: a residual is added in fours, and {spec.group_n} columns are no multiple of 4; report it"
        )
    activation_cost(spec.activation, quantized=True)  # their dry runs, before a kernel is begun
    activation_cost(spec.activation, spec.quantize and not spec.residual)
    with kernel(spec.name, target) as (b, batch):
        _Emitter(spec, b).body(batch)
    return b.result
