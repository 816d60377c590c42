"""Matrix products and convolutions with constant weights: out[m, n] = epilogue(sum_k a[m, k] w[k, n]).

A convolution over time-major activations is the same product with other strides: row j of a stream starts ``row_stride``
elements after row j - 1 and is made of ``taps`` runs of ``tap_k`` elements, ``tap_stride`` apart. Nothing is copied to columns.

A tile of output is computed by a micro-kernel (kernels/micro.py), whose sums the epilogue takes while they are in registers.
Weights are packed so that a micro-kernel reads them front to back (kernels/pack.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgeemo_runtime.errors import EdgeEmoError
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, KernelTarget, kernel
from edgeemo.compile.kernels.math import STEPS, activated, constants
from edgeemo.compile.kernels.micro import MicroKernels
from edgeemo.compile.kernels.micro_s8 import PARTS, WEIGHT_BYTES, S8Neon, whole_rows
from edgeemo.compile.kernels.pack import COLUMNS_S8, INT8_MAX, K_S8, PAIR_S8, column_tiles, round_up
from edgeemo.compile.kernels.weave import Beside, Desk, Kept, Registers, Steps, at_once, narrowed

SLOTS = 40  # of its desk
CROWDED = 2  # steps of an epilogue to a product
UNROLLED_GROUPS = {"s8": 1, "f16": 2, "f32": 2}
UNROLLED_TILES = 16  # of a stream's rows
UNROLLED_ACTIVATED = 4  # where an activation follows, which is most of a tile's code
UNROLLED_STEPS = 2000  # of activations of all a float kernel's tiles: more of them are a loop over a tile's columns
WEIGHT_DTYPES = {"s8": "int8", "f16": "float16", "f32": "float32"}


@dataclass(frozen=True)
class Gemm:
    """Everything a kernel's code depends on; two layers with equal specs share one kernel."""

    weights: str  # s8, f16 or f32: also the dtype of the activations (int8, float32, float32)
    rows: int  # output rows per stream
    taps: int
    tap_k: int  # reduction length per tap (channels per group)
    tap_stride: int
    row_stride: int
    stream_stride: int
    n: int  # output columns, all groups
    groups: int = 1
    bias: bool = False
    activation: str = ""  # of kernels/math.py
    residual: bool = False
    quantize: bool = False  # int8 out
    largest: int = INT8_MAX  # magnitude of what is quantized
    pairs: bool = False  # s8 on NEON: |a| + |w| <= 127 (kernels/micro_s8.py)
    scaled: bool = False  # scale and bias already carry the output's scale
    block: int = 0  # rows come in blocks of so many, ``block_stride`` apart (0: all rows are row_stride apart)
    block_stride: int = 0
    kept: tuple[int, ...] = ()  # f32: per column tile, how many of the k are not all zero; only those are there (see sparse_rows)

    @property
    def name(self) -> str:
        after = (
            "pairs" * self.pairs,
            "bias" * self.bias,
            self.activation,
            "residual" * self.residual,
            "quantize" * self.quantize,
        )
        tail = "".join(f"_{t}" for t in after if t)
        if self.kept:
            return f"gemm_{self.weights}_rows{self.rows}_k{self.tap_k}_n{self.n}_sparse{sum(self.kept)}{tail}"
        if self.block and self.tap_k == 1:
            return f"gemm_{self.weights}_rows{self.rows}_k{self.taps}_n{self.n}_transposed{tail}"
        conv = f"_taps{self.taps}_groups{self.groups}_stride{self.row_stride}_{self.stream_stride}" if self.taps > 1 else ""
        return f"gemm_{self.weights}_rows{self.rows}_k{self.taps * self.tap_k}_n{self.n}{conv}{tail}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates per stream and step, those with zeros that are left out included."""
        return self.rows * self.taps * self.tap_k * self.n

    @property
    def flat(self) -> bool:
        """Whether rows of consecutive streams follow each other at the same stride, so that tiles may span streams."""
        return self.stream_stride == self.rows * self.row_stride and not self.block

    @property
    def group_n(self) -> int:
        return self.n // self.groups


@dataclass(frozen=True)
class _Pending:
    """Tiles of so many rows, of which the last one's epilogue is yet to come."""

    rows: int
    any: Expr  # whether there are such tiles at all
    place: Expr  # the tile's first element of the output, and of scale and bias
    acc: Expr  # its sums as the micro-kernel leaves them, where it does
    sums: int  # the desk's slots with its sums


class _Emitter:
    """Emits one kernel's body: loops over tiles, a micro-kernel, the epilogue."""

    def __init__(self, spec: Gemm, b: Builder) -> None:
        self.spec, self.b, self.tile = spec, b, b.target.tiles[spec.weights]
        self.whole = whole_rows(spec)  # rows of a tile, but for those of halves
        dtypes = {"a": "int8" if spec.weights == "s8" else "float32", "w": WEIGHT_DTYPES[spec.weights]}
        dtypes |= {"index": "int32"} if spec.kept else {}
        dtypes |= {"offset": "int32"} if spec.pairs else {}
        dtypes |= {"scale": "float32"} if spec.weights == "s8" else {}
        dtypes |= {"bias": "float32"} if spec.bias else {}
        dtypes |= {"residual": "float32"} if spec.residual else {}
        dtypes |= {"out_inverse_scale": "float32"} if spec.quantize and not spec.scaled else {}
        dtypes["out"] = "int8" if spec.quantize else "float32"
        pointers = b.pointers(dtypes)
        self.a, self.w, self.out = (pointers[n] for n in ("a", "w", "out"))
        self.micro = MicroKernels(spec, b, self.a, self.w)
        self.index: Expr = pointers.get("index")
        self.offset, self.scale, self.bias, self.residual = (pointers.get(n) for n in ("offset", "scale", "bias", "residual"))
        self.out_words = b.view("out", "int32") if spec.quantize else None
        inverse = pointers.get("out_inverse_scale")
        self.inverse = b.bind(T.Broadcast(inverse[0], 4)) if inverse is not None else None
        # Of a row's epilogue, as _epilogues yields them: where it is off, the steps are spread a little less evenly.
        scales = inverse is not None and spec.activation in ("", "relu")
        self.steps = (
            5
            + (STEPS[spec.activation] + 1 if spec.activation in STEPS else 0)
            + 2 * (spec.residual or scales)
            + 3 * spec.quantize
            + spec.pairs
        )
        # Epilogues among NEON's int8 products: of rows that begin at whole words of the output, which four results are stored as,
        # if there are products enough. The first chunk's have the sums of the tile before among them.
        room = CROWDED * COLUMNS_S8 * (spec.taps * spec.tap_k // (PAIR_S8 if spec.pairs else K_S8) - 1)
        self.weaves = b.neon and spec.weights == "s8" and not (spec.quantize and spec.group_n % 4) and self.steps <= room
        if self.weaves:
            self.desk = Desk(b, constants(spec.activation, spec.quantize and not spec.residual), SLOTS)
            self.kept_inverse = None if self.inverse is None else self.desk.slots(1)
            self.columns = [self.desk.slots(1) for _ in range(3)]  # scale, bias and offset of the tile whose epilogue it is

    # -- loops -----------------------------------------------------------------------------------------------------------
    def body(self, batch: Expr) -> None:
        spec = self.spec
        k = spec.taps * spec.tap_k
        width = self.tile[1]
        if spec.kept:
            self._sparse(batch)
            return
        if self.weaves:
            with T.If(batch * spec.rows >= self.whole if spec.flat else batch > 0), T.Then():
                self.desk.lay()
                if self.inverse is not None:
                    self.desk.keep(self.inverse, self.kept_inverse)
        for group in self._groups():
            base = group * round_up(spec.group_n, 4) * k
            whole = spec.group_n // width
            if whole:
                self._column_blocks(batch, group, whole, width, base)
            for start, rest in column_tiles(spec.group_n, width)[whole:]:
                self.micro.columns(0)
                for rows in self._row_tiles(batch):
                    bound = self._bound(rows, group)
                    neon = self.micro.s8_rows(bound)
                    self._tile(bound, neon, group, start, rest, base + start * k)

    def _sparse(self, batch: Expr) -> None:
        """Each column tile with the k it keeps, which an index names."""
        spec, b = self.spec, self.b
        first = w_at = 0
        for (column, width), count in zip(column_tiles(spec.n, self.tile[1]), spec.kept, strict=True):
            for rows in self._row_tiles(batch):
                rows = [(b.bind(out), b.bind(a)) for out, a in rows]
                sums, add = self.micro.float_sums(len(rows), width, w_at)
                with T.serial(0, count) as i:
                    k = b.bind(self.index[first + i])
                    add([b.splat(b.load(self.a, at + k, 1)) for _, at in rows], w_at + (i + 1) * width)
                values = [[b.load(sums, i * width + j) for j in range(0, width, 4)] for i in range(len(rows))]
                for j in range(width // 4):
                    self._epilogue([v[j] for v in values], [out for out, _ in rows], 0, column + 4 * j)
            first, w_at = first + count, w_at + count * width

    def _groups(self) -> Iterator[Expr]:
        """One after another in the code, or a loop where that would be long."""
        if self.spec.groups <= UNROLLED_GROUPS[self.spec.weights]:
            yield from range(self.spec.groups)
            return
        with T.serial(0, self.spec.groups) as group:
            yield group

    def _column_blocks(self, batch: Expr, group: Expr, tiles: int, width: int, base: int) -> None:
        """Column tiles in blocks whose weights stay in L1 while the rows pass by: without, every column tile reads all rows of a
        anew, and those do not fit L1 beside it (24 rows of 1024 are 24 KiB)."""
        tile_bytes = self.spec.taps * self.spec.tap_k * width * WEIGHT_BYTES[self.spec.weights]
        fitting = max(1, self.b.target.block_bytes // tile_bytes)
        block = max(d for d in range(1, tiles + 1) if tiles % d == 0 and d <= fitting)
        run = self.spec.taps * self.spec.tap_k * width
        pending = self._pending(batch, group)
        with T.serial(0, tiles // block) as outer:
            self.micro.columns(outer)
            for rows in self._row_tiles(batch):
                rows = self._bound(rows, group)
                before = pending.get(len(rows))
                neon = self.micro.s8_rows(rows)
                if before is not None and neon is not None:
                    neon.begin(base + outer * block * run, before.acc)
                with T.serial(0, block) as inner:
                    tile = self.b.bind(outer * block + inner)
                    if before is None or neon is None:
                        self._tile(rows, neon, group, tile * width, width, base + tile * run)
                    else:
                        neon.tile(base + tile * run, self._beside(before))
                        self._place(before, rows[0][0], group, tile * width)
        for before in pending.values():
            with T.If(before.any), T.Then():
                self._finish(before)

    def _pending(self, batch: Expr, group: Expr) -> dict[int, _Pending]:
        """Int8 tiles whose epilogue is yet to come, by the number of their rows. What is left of all rows is a tile or none: that
        one's epilogue follows at once."""
        spec, b = self.spec, self.b
        if not self.weaves:
            return {}
        block = spec.block or spec.rows
        full = block // self.whole * self.whole
        if spec.flat:
            first = {self.whole: (0, batch * spec.rows >= self.whole)}
        else:
            first = {rows: (row, batch > 0) for rows, row in ((self.whole, 0), (block - full, full)) if 0 < rows <= block}
        pending = {}
        for rows, (row, any_) in first.items():
            place, acc = b.scratch(2, "int32"), b.scratch(rows * 16, "int32")
            pending[rows] = _Pending(rows, b.bind(any_), place, acc, self.desk.slots(rows * PARTS))
            self._place(pending[rows], row, group, 0)
            for i in range(0, rows * 16, 4):
                b.store(acc, b.zeros("int32", 4), i)
        return pending

    def _place(self, pending: _Pending, row: Expr, group: Expr, column: Expr) -> None:
        """The tile that is pending from now on begins at this row of the output and column of the group."""
        spec, b = self.spec, self.b
        b.store(pending.place, row * spec.n + group * spec.group_n + column, 0, 1)
        b.store(pending.place, group * round_up(spec.group_n, 4) + column, 1, 1)

    def _row_tiles(self, batch: Expr) -> Iterator[list[tuple[Expr, Expr]]]:
        """Within loops over all rows, yields tiles of rows as (output row, first element of a)."""
        spec = self.spec
        # Tiles over several streams pay for halves, whose widening the rows share; bytes gain nothing by them but code.
        if not spec.flat and (spec.rows % self.whole == 0 or spec.weights == "s8" or spec.block not in (0, spec.rows)):
            with T.serial(0, batch) as stream:
                yield from self._stream_tiles(stream)
            return
        total = self.b.bind(batch * spec.rows)
        size = self.tile[0] if spec.weights != "s8" else self.whole
        with T.serial(0, total // size) as tile:
            yield [self._row(tile * size + i) for i in range(size)]
        done = self.b.bind(total // size * size)
        if size > self.whole:
            with T.If(total - done >= self.whole), T.Then():
                yield [self._row(done + i) for i in range(self.whole)]
            done = self.b.bind(total // self.whole * self.whole)
        # A tile of its own for every remainder: row by row would cost three times as much.
        for left in range(1, self.whole) if spec.rows % self.whole else ():
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

    def _stream_tiles(self, stream: Expr) -> Iterator[list[tuple[Expr, Expr]]]:
        spec = self.spec
        block = spec.block or spec.rows
        start, row = stream * spec.stream_stride, stream * spec.rows
        if block == spec.rows:
            yield from self._block_tiles(row, start, block)
            return
        with T.serial(0, spec.rows // block) as outer:
            yield from self._block_tiles(row + outer * block, start + outer * spec.block_stride, block)

    def _block_tiles(self, row: Expr, start: Expr, rows: int) -> Iterator[list[tuple[Expr, Expr]]]:
        first = 0
        unrolled = UNROLLED_ACTIVATED if self.spec.activation in STEPS else UNROLLED_TILES
        if rows // self.whole > (1 if self._activation_steps() > UNROLLED_STEPS else unrolled):
            row, start = self.b.bind(row), self.b.bind(start)
            with T.serial(0, rows // self.whole) as tile:
                yield self._rows_from(row + tile * self.whole, start + tile * (self.whole * self.spec.row_stride), 0, self.whole)
            first = rows // self.whole * self.whole
        yield from (self._rows_from(row, start, at, rows) for at in range(first, rows, self.whole))

    def _rows_from(self, row: Expr, start: Expr, first: int, end: int) -> list[tuple[Expr, Expr]]:
        return [(row + j, start + j * self.spec.row_stride) for j in range(first, min(first + self.whole, end))]

    def _tile(
        self, rows: list[tuple[Expr, Expr]], neon: S8Neon | None, group: Expr, column: Expr, width: int, w_at: Expr
    ) -> None:
        """One tile: ``rows`` are (output row, first element of a); ``column`` counts within the group."""
        sums = self.micro.s8(rows, neon, w_at) if self.spec.weights == "s8" else self.micro.floats(rows, width, w_at)
        places = [out for out, _ in rows]
        long = self._activation_steps() > UNROLLED_STEPS and self.spec.weights != "s8"
        if long and width > 4 and self.spec.group_n % 4 == 0:
            self._epilogue_in_loop(sums, places, group, column)
            return
        for j in range(width // 4):
            self._epilogue([s[j] for s in sums], places, group, column + 4 * j)

    def _activation_steps(self) -> int:
        """Steps of the activation in the code, were it written out for all kinds of tiles (see _row_tiles)."""
        spec, whole = self.spec, self.whole
        rest = sum(range(1, whole)) if spec.flat else spec.rows % whole
        tiles = self.tile[0] + whole if spec.flat else min(spec.rows // whole, UNROLLED_ACTIVATED) * whole
        return (tiles + (rest if spec.rows % whole else 0)) * self.tile[1] // 4 * STEPS.get(spec.activation, 0)

    def _epilogue_in_loop(self, sums: list[list[Expr]], rows: list[Expr], group: Expr, column: Expr) -> None:
        """Of all columns of a tile, whose sums go through memory."""
        b, vectors = self.b, len(sums[0])
        waiting = b.scratch(len(sums) * vectors * 4)
        for i, of_row in enumerate(sums):
            for j, value in enumerate(of_row):
                b.store(waiting, value, (i * vectors + j) * 4)
        with T.serial(0, vectors) as j:
            self._epilogue(
                [b.load(waiting, (i * vectors + j) * 4) for i in range(len(sums))], rows, group, b.bind(column + j * 4)
            )

    def _beside(self, pending: _Pending) -> Beside:
        """The pending tile's epilogue."""

        def take(row: int, part: int, sums: Expr) -> None:
            self.desk.keep(T.reinterpret("float32x4", sums), pending.sums + row * PARTS + part)

        return Beside(self.desk, lambda: self._epilogues(pending, self.desk), take, self.steps)

    def _epilogues(self, pending: _Pending, between: Registers) -> Callable[[Expr], Steps]:
        """Of the tile that is pending, by row. At first there is none: what is found then goes to the place of the first and is
        written over."""
        b, desk = self.b, self.desk
        at, padded = (b.load(pending.place, i, 1) for i in range(2))
        scale = desk.keep(b.load(self.scale, padded), self.columns[0])
        bias = None if self.bias is None else desk.keep(b.load(self.bias, padded), self.columns[1])
        if self.offset is not None:
            desk.keep(T.reinterpret("float32x4", b.load(self.offset, padded)), self.columns[2])
        inverse = None if self.kept_inverse is None else desk.kept(self.kept_inverse)

        spec = self.spec

        def of_row(row: Expr) -> Steps:
            place = b.bind(at + row * self.spec.n)
            slot = pending.sums + row * PARTS
            parts = [T.reinterpret("int32x4", b.load(desk.memory, (slot + part) * 4)) for part in range(PARTS)]
            yield None
            sums = b.pair_sums(*parts)
            sums = T.reinterpret("int32x4", (yield T.reinterpret("float32x4", sums)))
            if self.offset is not None:
                offset = T.reinterpret("int32x4", b.load(desk.memory, self.columns[2] * 4))
                yield None
                sums = b.bind(sums - offset)
            value = yield b.bind(b.cast(sums, "float32x4"))
            value = yield from self._finished(value, scale, bias, inverse, place, between)
            if self.out_words is None:
                b.store(self.out, value, place)
            else:
                word = yield from narrowed(b, (yield value), spec.largest)
                b.store(self.out_words, word, b.bind(T.shift_right(place, T.int32(2))), 1)
            return value

        return of_row

    def _finish(self, pending: _Pending) -> None:
        self.micro.last_sums(pending.rows, pending.acc, self._beside(pending).take)
        epilogues = self._epilogues(pending, Registers(self.b))
        at_once(*(epilogues(row) for row in range(pending.rows)))

    def _bound(self, rows: list[tuple[Expr, Expr]], group: Expr) -> list[tuple[Expr, Expr]]:
        """A tile's rows with the first element of their group."""
        return [(self.b.bind(out), self.b.bind(a + group * self.spec.tap_k)) for out, a in rows]

    # -- epilogue --------------------------------------------------------------------------------------------------------
    def _epilogue(self, values: list[Expr], rows: list[Expr], group: Expr, column: Expr) -> None:
        """Four columns of every row of a tile."""
        spec, b = self.spec, self.b
        padded = b.bind(group * round_up(spec.group_n, 4) + column)
        scale = None if self.scale is None else b.load(self.scale, padded)
        bias = None if self.bias is None else b.load(self.bias, padded)
        places = [b.bind(row * spec.n + group * spec.group_n + column) for row in rows]
        registers = Registers(b)
        fixed = tuple(None if v is None else registers.keep(v) for v in (scale, bias, self.inverse))
        if self.offset is not None:
            offset = b.load(self.offset, padded)
            values = [b.bind(v - offset) for v in values]
        if scale is not None:
            values = [b.bind(b.cast(v, "float32x4")) for v in values]
        done = at_once(
            *(self._finished(v, fixed[0], fixed[1], fixed[2], at, registers) for v, at in zip(values, places, strict=True))
        )
        lanes = min(4, spec.group_n - column) if isinstance(column, int) else 4
        if spec.quantize and lanes == 4 and spec.group_n % 4 == 0:
            for first in range(0, len(done), 4):  # tiles of halves have eight rows
                part = done[first : first + 4]
                count = 1 if len(part) == 1 else 2 if len(part) == 2 else 4
                words = b.words(b.to_int8((part * 4)[:count], spec.largest))
                for word, at in zip(words, places[first : first + 4], strict=False):
                    b.store(self.out_words, word, b.bind(at // 4), 1)
            return
        for value, at in zip(done, places, strict=True):
            value = b.to_int8([value], spec.largest) if spec.quantize else value
            if lanes == 4:
                b.store(self.out, value, at)
            else:
                for lane in range(lanes):
                    b.store(self.out, T.Shuffle([value], [lane]), at + lane, 1)

    def _finished(
        self, value: Expr, scale: Kept | None, bias: Kept | None, inverse: Kept | None, at: Expr, desk: Registers
    ) -> Steps:
        """Four sums as float32x4 to four results, but for rounding."""
        spec, b = self.spec, self.b
        factor, summand = (None if v is None else v() for v in (scale, bias))
        yield None
        if factor is not None:
            value = b.fma(value, factor, summand) if summand is not None else value * factor
        elif summand is not None:
            value = value + summand
        last = self.residual is None  # what follows may then work in quantized units
        if spec.activation == "relu":
            value = b.maximum(value, b.splat(0.0))
        value = b.bind(value)
        scaled = spec.activation not in ("", "relu") and last
        if spec.activation not in ("", "relu"):
            value = yield from activated(b, spec.activation, (yield value), inverse if last else None, desk)
        if self.residual is not None:
            value = yield value
            residual = b.load(self.residual, at)
            yield None
            value = b.bind(value + residual)
        if inverse is not None and not scaled:
            value = yield value
            factor = inverse()
            yield None
            value = b.bind(value * factor)
        return value


def build(spec: Gemm, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, a, w, [index], [offset], [scale], [bias], [residual], [out_inverse_scale], out)."""
    if spec.residual and spec.group_n % 4:
        raise EdgeEmoError(
            f"{spec.name}: a residual is added in fours, and {spec.group_n} columns are no multiple of 4; report it"
        )
    with kernel(spec.name, target) as (b, batch):
        _Emitter(spec, b).body(batch)
    return b.result
