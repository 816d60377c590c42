"""Matrix products and convolutions with constant weights: out[m, n] = epilogue(sum_k a[m, k] w[k, n]).

A convolution over time-major activations is the same product with other strides: row j of a stream starts ``row_stride``
elements after row j - 1 and is made of ``taps`` runs of ``tap_k`` elements, ``tap_stride`` apart. Nothing is copied to columns.

Micro-kernels (name: type, instructions, rows x columns of a tile, which the target's file gives for floats):

    s8_neon      SMULL + SMLAL2 + SADALP, 4 x 4: 16 sums in registers, 16 k of every row and column per turn
                 |a| <= 128 and |w| <= 127, so two products fit an int16 lane before SADALP widens them
    s8_portable  the same sums from sign-extended int16 products, any vector unit
    f32          FMLA by element: 16 sums, the next k's weights loaded ahead
    f16          f32 with w loaded as half and widened (FCVTL): FP16 storage, FP32 arithmetic

Weights are packed so that a micro-kernel reads them front to back (kernels/pack.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, KernelTarget, kernel
from edgeemo.compile.kernels.math import gelu4
from edgeemo.compile.kernels.pack import K_S8, column_tiles, round_up

ROWS = 4  # of the smallest whole tile; tiles of 1 to 3 rows take what is left
UNROLL = 4  # chunks of 16 k in one iteration: loops of few iterations end as the branch predictor expects
UNROLLED_GROUPS = 2
UNROLLED_TILES = 16  # of a stream's rows
WEIGHT_BYTES = {"s8": 1, "f16": 2, "f32": 4}
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
    gelu: bool = False
    relu: bool = False
    residual: bool = False
    quantize: bool = False  # int8 out
    scaled: bool = False  # scale and bias already carry the output's scale
    block: int = 0  # rows come in blocks of so many, ``block_stride`` apart (0: all rows are row_stride apart)
    block_stride: int = 0
    kept: tuple[int, ...] = ()  # f32: per column tile, how many of the k are not all zero; only those are there (see sparse_rows)

    @property
    def name(self) -> str:
        tail = "".join(f"_{t}" for t in ("bias", "gelu", "relu", "residual", "quantize") if getattr(self, t))
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
    def activated(self) -> bool:
        return self.gelu or self.relu

    @property
    def flat(self) -> bool:
        """Whether rows of consecutive streams follow each other at the same stride, so that tiles may span streams."""
        return self.stream_stride == self.rows * self.row_stride and not self.block

    @property
    def group_n(self) -> int:
        return self.n // self.groups


class _Emitter:
    """Emits one kernel's body: loops over tiles, a micro-kernel, the epilogue."""

    def __init__(self, spec: Gemm, b: Builder) -> None:
        self.spec, self.b, self.tile = spec, b, b.target.tiles[spec.weights]
        dtypes = {"a": "int8" if spec.weights == "s8" else "float32", "w": WEIGHT_DTYPES[spec.weights]}
        dtypes |= {"index": "int32"} if spec.kept else {}
        dtypes |= {"scale": "float32"} if spec.weights == "s8" else {}
        dtypes |= {"bias": "float32"} if spec.bias else {}
        dtypes |= {"residual": "float32"} if spec.residual else {}
        dtypes |= {"out_inverse_scale": "float32"} if spec.quantize and not spec.scaled else {}
        dtypes["out"] = "int8" if spec.quantize else "float32"
        pointers = b.pointers(dtypes)
        self.a, self.w, self.out = (pointers[n] for n in ("a", "w", "out"))
        self.index: Expr = pointers.get("index")
        self.scale, self.bias, self.residual = (pointers.get(n) for n in ("scale", "bias", "residual"))
        self.out_words = b.view("out", "int32") if spec.quantize else None
        inverse = pointers.get("out_inverse_scale")
        self.inverse = b.bind(T.Broadcast(inverse[0], 4)) if inverse is not None else None

    # -- loops -----------------------------------------------------------------------------------------------------------
    def body(self, batch: Expr) -> None:
        spec = self.spec
        k = spec.taps * spec.tap_k
        width = self.tile[1]
        if spec.kept:
            self._sparse(batch)
            return
        for group in self._groups():
            base = group * round_up(spec.group_n, 4) * k
            whole = spec.group_n // width
            if whole:
                self._column_blocks(batch, group, whole, width, base)
            for start, rest in column_tiles(spec.group_n, width)[whole:]:
                for rows in self._row_tiles(batch):
                    self._tile(rows, group, start, rest, base + start * k)

    def _sparse(self, batch: Expr) -> None:
        """Each column tile with the k it keeps, which an index names."""
        spec, b = self.spec, self.b
        first = w_at = 0
        for (column, width), count in zip(column_tiles(spec.n, self.tile[1]), spec.kept, strict=True):
            for rows in self._row_tiles(batch):
                rows = [(b.bind(out), b.bind(a)) for out, a in rows]
                sums, add = self._float_sums(len(rows), width, w_at)
                with T.serial(0, count) as i:
                    k = b.bind(self.index[first + i])
                    add([b.splat(b.load(self.a, at + k, 1)) for _, at in rows], w_at + (i + 1) * width)
                values = [[b.load(sums, i * width + j) for j in range(0, width, 4)] for i in range(len(rows))]
                for j in range(width // 4):
                    self._epilogue([v[j] for v in values], [out for out, _ in rows], 0, column + 4 * j)
            first, w_at = first + count, w_at + count * width

    def _groups(self) -> Iterator[Expr]:
        """One after another in the code, or a loop where that would be long."""
        if self.spec.groups <= UNROLLED_GROUPS:
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
        with T.serial(0, tiles // block) as outer:
            for rows in self._row_tiles(batch):
                with T.serial(0, block) as inner:
                    tile = self.b.bind(outer * block + inner)
                    self._tile(rows, group, tile * width, width, base + tile * run)

    def _row_tiles(self, batch: Expr) -> Iterator[list[tuple[Expr, Expr]]]:
        """Within loops over all rows, yields tiles of rows as (output row, first element of a)."""
        spec = self.spec
        # Tiles over several streams pay for halves, whose widening the rows share; bytes gain nothing by them but code.
        if not spec.flat and (spec.rows % ROWS == 0 or spec.weights == "s8" or spec.block not in (0, spec.rows)):
            with T.serial(0, batch) as stream:
                yield from self._stream_tiles(stream)
            return
        total = self.b.bind(batch * spec.rows)
        size = self.tile[0]
        with T.serial(0, total // size) as tile:
            yield [self._row(tile * size + i) for i in range(size)]
        done = self.b.bind(total // size * size)
        if size > ROWS:
            with T.If(total - done >= ROWS), T.Then():
                yield [self._row(done + i) for i in range(ROWS)]
            done = self.b.bind(total // ROWS * ROWS)
        for left in range(1, ROWS):  # a tile of its own for every remainder: row by row would cost three times as much
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
        if rows // ROWS > UNROLLED_TILES:
            row, start = self.b.bind(row), self.b.bind(start)
            with T.serial(0, rows // ROWS) as tile:
                yield self._rows_from(row + tile * ROWS, start + tile * (ROWS * self.spec.row_stride), 0, ROWS)
            first = rows // ROWS * ROWS
        yield from (self._rows_from(row, start, at, rows) for at in range(first, rows, ROWS))

    def _rows_from(self, row: Expr, start: Expr, first: int, end: int) -> list[tuple[Expr, Expr]]:
        return [(row + j, start + j * self.spec.row_stride) for j in range(first, min(first + ROWS, end))]

    def _tile(self, rows: list[tuple[Expr, Expr]], group: Expr, column: Expr, width: int, w_at: Expr) -> None:
        """One tile: ``rows`` are (output row, first element of a); ``column`` counts within the group."""
        spec, b = self.spec, self.b
        rows = [(b.bind(out), b.bind(a + group * spec.tap_k)) for out, a in rows]
        if spec.weights != "s8":
            sums = self._float_tile(rows, width, w_at)
        elif b.neon:
            sums = self._s8_neon_tile(rows, w_at)
        else:
            sums = self._s8_portable_tile(rows, w_at)
        for j in range(width // 4):
            self._epilogue([s[j] for s in sums], [out for out, _ in rows], group, column + 4 * j)

    # -- micro-kernels ---------------------------------------------------------------------------------------------------
    def _s8_neon_tile(self, rows: list[tuple[Expr, Expr]], w_at: Expr) -> list[list[Expr]]:
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

    def _s8_portable_tile(self, rows: list[tuple[Expr, Expr]], w_at: Expr) -> list[list[Expr]]:
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

    def _float_sums(self, rows: int, width: int, w_at: Expr) -> tuple[Expr, Callable[[list[Expr], Expr], None]]:
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

    def _float_tile(self, rows: list[tuple[Expr, Expr]], width: int, w_at: Expr) -> list[list[Expr]]:
        spec, b = self.spec, self.b
        vectors = width // 4
        sums, add = self._float_sums(len(rows), width, w_at)
        unroll = max(u for u in (1, 2, 4) if spec.tap_k % u == 0)
        chunks = spec.tap_k // unroll
        outer, inner = (spec.taps, chunks) if chunks > 1 else (1, spec.taps)
        step = unroll if chunks > 1 else spec.tap_stride
        with T.serial(0, outer) as tap:
            firsts = [b.bind(at + tap * spec.tap_stride) for _, at in rows]
            with T.serial(0, inner) as chunk:
                a = [b.load(self.a, at + chunk * step, unroll) for at in firsts]
                for lane in range(unroll):
                    scalars = [T.Shuffle([v], [lane]) if unroll > 1 else v for v in a]
                    next_at = w_at + ((tap * inner + chunk) * unroll + lane + 1) * width
                    add([b.splat(s) for s in scalars], next_at)
        return [[b.load(sums, (i * vectors + j) * 4) for j in range(vectors)] for i in range(len(rows))]

    # -- epilogue --------------------------------------------------------------------------------------------------------
    def _epilogue(self, values: list[Expr], rows: list[Expr], group: Expr, column: Expr) -> None:
        """Four columns of every row of a tile."""
        spec, b = self.spec, self.b
        padded = b.bind(group * round_up(spec.group_n, 4) + column)
        scale = None if self.scale is None else b.load(self.scale, padded)
        bias = None if self.bias is None else b.load(self.bias, padded)
        places = [b.bind(row * spec.n + group * spec.group_n + column) for row in rows]
        done = []
        for value, at in zip(values, places, strict=True):
            if scale is not None:
                value = b.bind(b.cast(value, "float32x4"))
                value = b.fma(value, scale, bias) if bias is not None else value * scale
            elif bias is not None:
                value = value + bias
            if spec.relu:
                value = b.maximum(value, b.splat(0.0))
            last = self.residual is None  # what follows may then work in quantized units
            if spec.gelu:
                value = gelu4(b, value, self.inverse if last else None)
            if self.residual is not None:
                value = value + b.load(self.residual, at)
            if self.inverse is not None and not (spec.gelu and last):
                value = value * self.inverse
            done.append(b.bind(value))
        lanes = min(4, spec.group_n - column) if isinstance(column, int) else 4
        if spec.quantize and lanes == 4 and spec.group_n % 4 == 0:
            count = 1 if len(done) == 1 else 2 if len(done) == 2 else 4
            words = b.words(b.to_int8((done * 4)[:count]))
            for word, at in zip(words, places, strict=False):
                b.store(self.out_words, word, b.bind(at // 4), 1)
            return
        for value, at in zip(done, places, strict=True):
            value = b.to_int8([value]) if spec.quantize else value
            if lanes == 4:
                b.store(self.out, value, at)
            else:
                for lane in range(lanes):
                    b.store(self.out, T.Shuffle([value], [lane]), at + lane, 1)


def build(spec: Gemm, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, a, w, [index], [scale], [bias], [residual], [out_inverse_scale], out)."""
    if spec.residual and spec.group_n % 4:
        raise ValueError("a residual is added in fours: the number of columns must be a multiple of 4")
    with kernel(spec.name, target) as (b, batch):
        _Emitter(spec, b).body(batch)
    return b.result
