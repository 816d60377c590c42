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

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, kernel
from edgeemo.compile.kernels.math import gelu4

COLUMNS_S8 = 4
K_S8 = 16
COLUMNS_FLOAT = 16
ROWS = 4
BLOCK_BYTES = 16 * 1024  # half of L1 for a block of weights; the other half for the rows passing by
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

    @property
    def name(self) -> str:
        tail = "".join(f"_{t}" for t in ("bias", "gelu", "residual", "quantize") if getattr(self, t))
        conv = f"_taps{self.taps}_groups{self.groups}_stride{self.row_stride}_{self.stream_stride}" if self.taps > 1 else ""
        return f"gemm_{self.weights}_rows{self.rows}_k{self.taps * self.tap_k}_n{self.n}{conv}{tail}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates per stream and step."""
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
        dtypes |= {"scale": "float32"} if spec.weights == "s8" else {}
        dtypes |= {"bias": "float32"} if spec.bias else {}
        dtypes |= {"residual": "float32"} if spec.residual else {}
        dtypes |= {"out_inverse_scale": "float32", "out": "int8"} if spec.quantize else {"out": "float32"}
        pointers = b.pointers(dtypes)
        self.a, self.w, self.out = (pointers[n] for n in ("a", "w", "out"))
        self.scale, self.bias, self.residual = (pointers.get(n) for n in ("scale", "bias", "residual"))
        inverse = pointers.get("out_inverse_scale")
        self.inverse = b.bind(T.Broadcast(inverse[0], 4)) if inverse is not None else None

    # -- loops -----------------------------------------------------------------------------------------------------------
    def body(self, batch: Expr) -> None:
        spec = self.spec
        k = spec.taps * spec.tap_k
        width = COLUMNS_S8 if spec.weights == "s8" else COLUMNS_FLOAT
        for group in range(spec.groups):
            base = group * round_up(spec.group_n, 4) * k
            whole = spec.group_n // width
            if whole:
                self._column_blocks(batch, group, whole, width, base)
            for start, rest in column_tiles(spec.group_n, width)[whole:]:
                for rows in self._row_tiles(batch):
                    self._tile(rows, group, start, rest, base + start * k)

    def _column_blocks(self, batch: Expr, group: int, tiles: int, width: int, base: int) -> None:
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
            for first in range(0, spec.rows, ROWS):
                rows = range(first, min(first + ROWS, spec.rows))
                yield [(stream * spec.rows + j, stream * spec.stream_stride + j * spec.row_stride) for j in rows]

    def _tile(self, rows: list[tuple[Expr, Expr]], group: int, column: Expr, width: int, w_at: Expr) -> None:
        """One tile: ``rows`` are (output row, first element of a); ``column`` counts within the group."""
        spec, b = self.spec, self.b
        rows = [(b.bind(out), b.bind(a + group * spec.tap_k)) for out, a in rows]
        if spec.weights != "s8":
            sums = self._float_tile(rows, width, w_at)
        elif b.neon:
            sums = self._s8_neon_tile(rows, w_at)
        else:
            sums = self._s8_portable_tile(rows, w_at)
        for i, (out_row, _) in enumerate(rows):
            for j in range(width // 4):
                self._epilogue(sums[i][j], out_row, group, column + 4 * j)

    # -- micro-kernels ---------------------------------------------------------------------------------------------------
    def _s8_neon_tile(self, rows: list[tuple[Expr, Expr]], w_at: Expr) -> list[list[Expr]]:
        spec, b = self.spec, self.b
        sums = b.scratch(len(rows) * 16, "int32")
        for i in range(len(rows) * 4):
            b.store(sums, b.zeros("int32", 4), i * 4)

        def half(v: Expr, start: int) -> Expr:
            return b.intrinsic("int8x8", "llvm.vector.extract.v8i8.v16i8", v, T.int64(start))

        chunks = spec.tap_k // K_S8
        for tap in range(spec.taps):
            with T.serial(0, chunks) as chunk:
                a = [b.load(self.a, at + tap * spec.tap_stride + chunk * K_S8, 16) for _, at in rows]
                for j in range(4):
                    w = b.load(self.w, w_at + ((tap * chunks + chunk) * 4 + j) * K_S8, 16)
                    for i in range(len(rows)):
                        low, high = (
                            b.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", half(a[i], s), half(w, s)) for s in (0, 8)
                        )
                        wide = b.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", low + high)
                        at = (i * 4 + j) * 4
                        b.store(sums, sums[T.Ramp(at, 1, 4)] + wide, at)

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

    def _float_tile(self, rows: list[tuple[Expr, Expr]], width: int, w_at: Expr) -> list[list[Expr]]:
        spec, b = self.spec, self.b
        vectors = width // 4
        sums = b.scratch(len(rows) * width)
        for i in range(len(rows) * vectors):
            b.store(sums, b.splat(0.0), i * 4)

        def one_k(a: list[Expr], w_row: Expr) -> None:
            for j in range(vectors):
                w = b.load(self.w, w_row + j * 4)
                w = w if spec.weights == "f32" else b.bind(b.cast(w, "float32x4"))
                for i in range(len(rows)):
                    at = (i * vectors + j) * 4
                    b.store(sums, b.fma(a[i], w, sums[T.Ramp(at, 1, 4)]), at)

        for tap in range(spec.taps):
            unroll = 4 if spec.tap_k % 4 == 0 else 1
            with T.serial(0, spec.tap_k // unroll) as chunk:
                a = [b.load(self.a, at + tap * spec.tap_stride + chunk * unroll, unroll) for _, at in rows]
                for lane in range(unroll):
                    scalars = [T.Shuffle([v], [lane]) if unroll > 1 else v for v in a]
                    one_k([b.splat(s) for s in scalars], w_at + (tap * spec.tap_k + chunk * unroll + lane) * width)
        return [[b.load(sums, (i * vectors + j) * 4) for j in range(vectors)] for i in range(len(rows))]

    # -- epilogue --------------------------------------------------------------------------------------------------------
    def _epilogue(self, value: Expr, row: Expr, group: int, column: Expr) -> None:
        spec, b = self.spec, self.b
        padded = b.bind(group * round_up(spec.group_n, 4) + column)
        if self.scale is not None:
            value = b.cast(value, "float32x4") * b.load(self.scale, padded)
        if self.bias is not None:
            value = value + b.load(self.bias, padded)
        if spec.gelu:
            value = gelu4(b, value)
        at = b.bind(row * spec.n + group * spec.group_n + column)
        lanes = min(4, spec.group_n - column) if isinstance(column, int) else 4
        if self.residual is not None:
            value = value + b.load(self.residual, at)
        if self.inverse is not None:
            value = b.to_int8(value * self.inverse)
        if lanes == 4:
            b.store(self.out, value, at)
        else:
            value = b.bind(value)
            for lane in range(lanes):
                b.store(self.out, T.Shuffle([value], [lane]), at + lane, 1)


def build(spec: Gemm, neon: bool):  # type: ignore[no-untyped-def]
    """The kernel: (batch, a, w, [scale], [bias], [residual], [out_inverse_scale], out)."""
    if spec.residual and spec.group_n % 4:
        raise ValueError("a residual is added in fours: the number of columns must be a multiple of 4")
    with kernel(spec.name, neon) as (b, batch):
        _Emitter(spec, b).body(batch)
    return b.result
