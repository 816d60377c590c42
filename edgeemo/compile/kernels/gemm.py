"""Matrix products and 1-D convolutions with constant weights: out[m, n] = epilogue(sum_k a[m, k] w[k, n]).

A convolution over time-major activations is the same product with other strides: row j of a stream starts ``row_stride``
elements after row j - 1 and is made of ``taps`` runs of ``tap_k`` elements, ``tap_stride`` apart. Nothing is copied to columns.

Micro-kernels (name: type, instructions, tile rows x columns):

    s8_neon      SMULL + SMLAL2 + SADALP, 4 x 4 or 3 x 4; v0-v15 sums, one 16-byte load per row and per column and 16 k
                 |a| <= 128 and |w| <= 127, so two products fit an int16 lane before SADALP widens them
    s8_portable  the same sums from sign-extended int16 products, any vector unit
    f32          FMLA by element, 4 x 16: 16 sums, four loads of w per k
    f16          f32 with w loaded as half and widened (FCVTL): FP16 storage, FP32 arithmetic

Weights are packed so that a micro-kernel reads them front to back (pack_s8, pack_float).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, kernel
from edgeemo.compile.kernels.math import gelu4

COLUMNS_S8 = 4
K_S8 = 16
COLUMNS_FLOAT = 16
ROWS = 4
UNROLL = 4  # chunks of 16 k in one iteration: loops of few iterations end as the branch predictor expects
BLOCK_BYTES = 16 * 1024  # half of L1 for a block of weights; the other half for the rows passing by
UNROLLED_GROUPS = 2
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
    residual: bool = False
    quantize: bool = False  # int8 out
    scaled: bool = False  # scale and bias already carry the output's scale
    block: int = 0  # rows come in blocks of so many, ``block_stride`` apart (0: all rows are row_stride apart)
    block_stride: int = 0
    kept: tuple[int, ...] = ()  # f32: per column tile, how many of the k are not all zero; only those are there (see sparse_rows)

    @property
    def name(self) -> str:
        tail = "".join(f"_{t}" for t in ("bias", "gelu", "residual", "quantize") if getattr(self, t))
        if self.kept:
            return f"gemm_{self.weights}_rows{self.rows}_k{self.tap_k}_n{self.n}_sparse{sum(self.kept)}{tail}"
        if self.block:
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
        return self.taps == 1 and self.stream_stride == self.rows * self.row_stride

    @property
    def group_n(self) -> int:
        return self.n // self.groups


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def pack_s8(w: np.ndarray) -> np.ndarray:
    """w (groups, taps, tap_k, group_n) int8 to (groups, n/4, taps * tap_k/16, 4, 16), columns padded with zeros.

    Raises ValueError where the kernel could not be exact: tap_k not a multiple of 16, or a weight of -128.
    """
    groups, taps, tap_k, n = w.shape
    if tap_k % K_S8:
        raise ValueError(f"int8 kernel needs a reduction length in multiples of {K_S8}, got {tap_k}")
    if w.min(initial=0) < -127:
        raise ValueError("int8 weights must lie in [-127, 127]")
    padded = np.zeros((groups, taps, tap_k, round_up(n, COLUMNS_S8)), dtype=np.int8)
    padded[..., :n] = w
    tiles = padded.reshape(groups, taps, tap_k // K_S8, K_S8, -1, COLUMNS_S8)
    return np.ascontiguousarray(tiles.transpose(0, 4, 1, 2, 5, 3))


def column_tiles(n: int, width: int) -> list[tuple[int, int]]:
    """(first column, width) of a kernel's tiles: as wide as given, then one of what is left rounded up to 4."""
    whole = n // width * width
    tiles = [(start, width) for start in range(0, whole, width)]
    return [*tiles, (whole, round_up(n - whole, 4))] if n > whole else tiles


def pack_float(w: np.ndarray) -> np.ndarray:
    """w (groups, taps, tap_k, group_n) float32 or float16 to one run per group and column tile: (taps * tap_k, width)."""
    groups, taps, tap_k, n = w.shape
    flat = np.zeros((groups, taps * tap_k, round_up(n, 4)), dtype=w.dtype)
    flat[..., :n] = w.reshape(groups, taps * tap_k, n)
    runs = [flat[g, :, start : start + width].ravel() for g in range(groups) for start, width in column_tiles(n, COLUMNS_FLOAT)]
    return np.concatenate(runs)


def sparse_rows(w: np.ndarray) -> tuple[tuple[int, ...], np.ndarray, np.ndarray] | None:
    """What is left of w (k, n) float32 when every column tile keeps only the k at which it has a weight: counts per tile, the
    kept k one tile after another (int32), and the packed weights. None where that would not leave out half of them.

    A filterbank is such a matrix: a few neighbouring bands have no weight at most bins.
    """
    tiles = column_tiles(w.shape[1], COLUMNS_FLOAT)
    kept = [np.flatnonzero(w[:, start : start + width].any(axis=1)) for start, width in tiles]
    if 2 * sum(len(k) * width for k, (_, width) in zip(kept, tiles, strict=True)) > w.shape[0] * round_up(w.shape[1], 4):
        return None
    padded = np.pad(w, ((0, 0), (0, round_up(w.shape[1], 4) - w.shape[1])))
    runs = [padded[k, start : start + width].ravel() for k, (start, width) in zip(kept, tiles, strict=True)]
    return tuple(len(k) for k in kept), np.concatenate(kept).astype(np.int32), np.concatenate(runs)


def pad_columns(values: np.ndarray, groups: int) -> np.ndarray:
    """Per-column float32 values (n,) with each group padded to a multiple of 4, as the epilogue reads them."""
    values = values.astype(np.float32).reshape(groups, -1)
    out = np.zeros((groups, round_up(values.shape[1], 4)), dtype=np.float32)
    out[:, : values.shape[1]] = values
    return out.ravel()


class _Emitter:
    """Emits one kernel's body: loops over tiles, a micro-kernel, the epilogue."""

    def __init__(self, spec: Gemm, b: Builder) -> None:
        self.spec, self.b = spec, b
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
        width = COLUMNS_S8 if spec.weights == "s8" else COLUMNS_FLOAT
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
        for (column, width), count in zip(column_tiles(spec.n, COLUMNS_FLOAT), spec.kept, strict=True):
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
        fitting = max(1, BLOCK_BYTES // tile_bytes)
        block = max(d for d in range(1, tiles + 1) if tiles % d == 0 and d <= fitting)
        run = self.spec.taps * self.spec.tap_k * width
        with T.serial(0, tiles // block) as outer:
            for rows in self._row_tiles(batch):
                with T.serial(0, block) as inner:
                    tile = self.b.bind(outer * block + inner)
                    self._tile(rows, group, tile * width, width, base + tile * run)

    def _row_tiles(self, batch: Expr) -> Iterator[list[tuple[Expr, Expr]]]:
        """Within loops over all rows, yields tiles of up to 4 as (output row, first element of a)."""
        spec = self.spec
        if spec.flat:
            total = self.b.bind(batch * spec.rows)
            with T.serial(0, total // ROWS) as tile:
                yield [(tile * ROWS + i, (tile * ROWS + i) * spec.row_stride) for i in range(ROWS)]
            for left in range(1, ROWS):  # a tile of its own for every remainder: row by row would cost three times as much
                with T.If(total % ROWS == left), T.Then():
                    first = self.b.bind(total // ROWS * ROWS)
                    yield [(first + i, (first + i) * spec.row_stride) for i in range(left)]
            return
        with T.serial(0, batch) as stream:
            yield from self._stream_tiles(stream)

    def _stream_tiles(self, stream: Expr) -> Iterator[list[tuple[Expr, Expr]]]:
        spec = self.spec
        block = spec.block or spec.rows
        start, row = stream * spec.stream_stride, stream * spec.rows
        if block == spec.rows:
            yield from (self._rows_from(row, start, first, block) for first in range(0, block, ROWS))
            return
        with T.serial(0, spec.rows // block) as outer:
            start, row = start + outer * spec.block_stride, row + outer * block
            yield from (self._rows_from(row, start, first, block) for first in range(0, block, ROWS))

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

        def add_pairs(x: Expr, y: Expr) -> Expr:
            return b.bind(b.intrinsic("int32x4", "llvm.aarch64.neon.addp.v4i32", x, y))

        result = []
        for i in range(len(rows)):
            v = [b.load(sums, (i * 4 + j) * 4) for j in range(4)]
            result.append([add_pairs(add_pairs(v[0], v[1]), add_pairs(v[2], v[3]))])
        return result

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
        weights lie). Weights are loaded one k ahead, for the same reason as in the int8 kernel."""
        b, kind = self.b, self.spec.weights
        sums = b.scratch(rows * width)
        held = b.scratch(width, WEIGHT_DTYPES[kind])
        for i in range(0, rows * width, 4):
            b.store(sums, b.splat(0.0), i)

        def hold(at: Expr) -> None:
            for j in range(0, width, 4):
                b.store(held, b.load(self.w, at + j), j)

        def add(a: list[Expr], next_at: Expr) -> None:
            w = [b.load(held, j) for j in range(0, width, 4)]
            hold(next_at)
            b.fence()
            for j, vector in enumerate(w):
                wide = vector if kind == "f32" else b.bind(b.cast(vector, "float32x4"))
                for i, value in enumerate(a):
                    to = i * width + 4 * j
                    b.store(sums, b.fma(value, wide, sums[T.Ramp(to, 1, 4)]), to)

        hold(w_at)
        return sums, add

    def _float_tile(self, rows: list[tuple[Expr, Expr]], width: int, w_at: Expr) -> list[list[Expr]]:
        spec, b = self.spec, self.b
        vectors = width // 4
        sums, add = self._float_sums(len(rows), width, w_at)
        unroll = max(u for u in (1, 2, 4) if spec.tap_k % u == 0)
        chunks = spec.tap_k // unroll
        with T.serial(0, spec.taps * chunks) as chunk:
            tap, within = (chunk, 0) if chunks == 1 else (chunk // chunks, chunk % chunks)
            if spec.taps == 1:
                tap, within = 0, chunk
            a = [b.load(self.a, at + tap * spec.tap_stride + within * unroll, unroll) for _, at in rows]
            for lane in range(unroll):
                scalars = [T.Shuffle([v], [lane]) if unroll > 1 else v for v in a]
                add([b.splat(s) for s in scalars], w_at + (chunk * unroll + lane + 1) * width)
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


def build(spec: Gemm, neon: bool):  # type: ignore[no-untyped-def]
    """The kernel: (batch, a, w, [index], [scale], [bias], [residual], [out_inverse_scale], out)."""
    if spec.residual and spec.group_n % 4:
        raise ValueError("a residual is added in fours: the number of columns must be a multiple of 4")
    with kernel(spec.name, neon) as (b, batch):
        _Emitter(spec, b).body(batch)
    return b.result
