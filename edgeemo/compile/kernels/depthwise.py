"""Depthwise convolution over two dimensions, channels-last: every channel has a window of its own.

    out[y, x, c] = sum_ij a[y * stride + i * dilation, x * stride + j * dilation, c] w[i, j, c] + bias[c]

Lanes are channels, and a tile has several columns of the output: a weight that is loaded is used for each, and no sum waits for
its last.

    f32    four channels, eight columns; what neighbouring places of the window share stays in registers. Two or three channels go
           one by one.
    s8     sixteen channels, four columns: SMULL and SMLAL add two places' products as int16 (127 * 128 * 2 fits), SADDW takes
           those into the int32 sums; half as many operations as FMLA has. Channels that are left over are computed with some
           that were before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, kernel
from edgeemo.compile.kernels.interleave import InRegisters, round_robin
from edgeemo.compile.kernels.specs import KernelSpec
from edgeemo.compile.kernels.vector_math import activation_ops
from edgeemo.targets.board import KernelTarget
from edgeemo.targets.capabilities import CHANNELS_S8, INT8_MAX

COLUMNS = {"f32": 8, "s8": 4}
LANES = {"f32": 4, "s8": 16}
DTYPES = {"f32": "float32", "s8": "int8"}


@dataclass(frozen=True)
class Depthwise(KernelSpec):
    """``height``, ``width``: of what is read, its padding included; pairs are (down, across)."""

    kind: str  # of the weights, s8 or f32: also the data's type
    channels: int
    height: int
    width: int
    out: tuple[int, int]
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    bias: bool = False
    activation: str = ""  # of vector_math.ACTIVATIONS
    quantize: bool = False  # s8: int8 out
    qmax: int = INT8_MAX  # magnitude of what is quantized
    requant_folded: bool = False  # scale and bias already carry the output's scale

    @property
    def name(self) -> str:
        tail = "".join(f"_{t}" for t in ("bias" * self.bias, self.activation, "quantize" * self.quantize) if t)
        size = "x".join(map(str, (*self.out, self.channels)))
        return f"depthwise_{self.kind}_{size}_window{self.window[0]}x{self.window[1]}{tail}"

    @property
    def macs(self) -> int:
        """Per stream and step."""
        return self.out[0] * self.out[1] * self.channels * self.window[0] * self.window[1]

    @property
    def int8_macs(self) -> int:
        return self.macs if self.kind == "s8" else 0

    @property
    def places(self) -> list[tuple[int, int]]:
        """(row, column) of each element of the window."""
        return [(i, j) for i in range(self.window[0]) for j in range(self.window[1])]

    def weight_at(self, place: tuple[int, int]) -> int:
        """A place's first weight."""
        return (place[0] * self.window[1] + place[1]) * self.channels

    def data_at(self, place: tuple[int, int], column: int) -> int:
        """Offset of the datum under an element of the window, for a column of the tile, from where the tile's first window
        begins."""
        down, across = place[0] * self.dilations[0], place[1] * self.dilations[1] + column * self.strides[1]
        return (down * self.width + across) * self.channels


def build(spec: Depthwise, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, a, w (window, channels), [scale], [bias], [out_inverse_scale], out)."""
    dtypes = dict.fromkeys(("a", "w"), DTYPES[spec.kind]) | ({"scale": "float32"} if spec.kind == "s8" else {})
    dtypes |= {"bias": "float32"} if spec.bias else {}
    dtypes |= {"inverse": "float32"} if spec.quantize and not spec.requant_folded else {}
    dtypes |= {"out": "int8" if spec.quantize else "float32"}
    tile = _tile_s8 if spec.kind == "s8" else _tile_f32
    with kernel(spec.name, target) as (b, batch):
        buffers = b.pointers(dtypes)
        line = spec.width * spec.channels
        with T.serial(0, batch) as stream, T.serial(0, spec.out[0]) as y:
            read = b.bind(stream * (spec.height * line) + y * (spec.strides[0] * line))
            written = b.bind((stream * spec.out[0] + y) * (spec.out[1] * spec.channels))
            for x, columns in _tiles(spec.out[1], COLUMNS[spec.kind]):
                at, to = b.bind(read + x * (spec.strides[1] * spec.channels)), b.bind(written + x * spec.channels)
                for channel, lanes in _vectors(spec):
                    tile(spec, b, buffers, b.bind(channel), at, to, columns, lanes)
    return b.result


def _tiles(width: int, columns: int) -> Iterator[tuple[Expr, int]]:
    """(first column, columns), the whole ones from a loop."""
    if width >= columns:
        with T.serial(0, width // columns) as tile:
            yield tile * columns, columns
    if width % columns:
        yield width // columns * columns, width % columns


def _vectors(spec: Depthwise) -> Iterator[tuple[Expr, int]]:
    """(first channel, lanes), the whole vectors from a loop; the last vector of what is left begins earlier."""
    lanes = LANES[spec.kind]
    whole, rest = divmod(spec.channels, lanes)
    if whole:
        with T.serial(0, whole) as vector:
            yield vector * lanes, lanes
    least = CHANNELS_S8 if spec.kind == "s8" else 4
    if rest and spec.channels < least:
        yield from ((channel, 1) for channel in range(spec.channels))
    elif rest and not whole:
        yield from ((channel, least) for channel in {0, spec.channels - least})
    elif rest:
        lanes = least if rest <= least else lanes
        yield spec.channels - lanes, lanes


def _tile_f32(
    spec: Depthwise, b: Builder, buffers: dict[str, Expr], channel: Expr, at: Expr, to: Expr, columns: int, lanes: int
) -> None:
    zero = T.float32(0) if lanes == 1 else b.splat(0.0)
    first = b.load(buffers["bias"], channel, lanes) if spec.bias else b.bind(zero)
    sums, line = [first] * columns, dict[int, Expr]()

    def fetch(place: tuple[int, int]) -> tuple[list[Expr], Expr]:
        """Loads one element of the window for all columns, reusing loads of the element before, and its weight."""
        if place[1] == 0:
            line.clear()
        under = [spec.data_at(place, x) for x in range(columns)]
        for data in under:
            if data not in line:
                line[data] = b.load(buffers["a"], at + channel + data, lanes)
        return [line[data] for data in under], b.load(buffers["w"], channel + spec.weight_at(place), lanes)

    first_place, *places = spec.places
    ahead = fetch(first_place)
    for place in (*places, None):
        values, weight = ahead
        if place is not None:
            ahead = fetch(place)
        b.scheduling_barrier()  # loads stay a place ahead of their use: LLVM would put them right before it, to wait
        with b.computed_at_use():
            sums = [b.bind(b.fma(a, weight, total, lanes)) for a, total in zip(values, sums, strict=True)]
    for x, value in enumerate(_finished(spec, b, sums, None) if lanes > 1 else sums):
        b.store(buffers["out"], value, to + channel + x * spec.channels, lanes)


def _finished(spec: Depthwise, b: Builder, values: list[Expr], inverse: Expr | None) -> list[Expr]:
    """float32x4 sums, their activation, and in units of the output's scale where ``inverse`` is its inverse."""
    if spec.activation in ("", "relu"):
        assert inverse is None or spec.requant_folded
        return [b.bind(b.maximum(v, b.splat(0.0))) for v in values] if spec.activation else values
    in_registers = InRegisters(b)
    factor = None if inverse is None else in_registers.store(inverse)
    return round_robin(*(activation_ops(b, spec.activation, v, factor, in_registers, spec.kind) for v in values))


def _tile_s8(
    spec: Depthwise, b: Builder, buffers: dict[str, Expr], channel: Expr, at: Expr, to: Expr, columns: int, lanes: int
) -> None:
    quarters = range(lanes // 4)
    sums = [[b.zeros("int32", 4) for _ in quarters] for _ in range(columns)]
    pairs = [spec.places[i : i + 2] for i in range(0, len(spec.places), 2)]

    def fetch(pair: int, x: int) -> list[Expr]:
        return [b.load(buffers["a"], at + channel + spec.data_at(place, x), lanes) for place in pairs[pair]]

    def fetch_weights(pair: int) -> list[Expr]:
        return [b.load(buffers["w"], channel + spec.weight_at(place), lanes) for place in pairs[pair]]

    turns = [(pair, x) for pair in range(len(pairs)) for x in range(columns)]
    ahead, weights_ahead, weights = fetch(*turns[0]), fetch_weights(0), list[Expr]()
    for (_, x), following in zip(turns, [*turns[1:], None], strict=True):
        values = ahead
        if x == 0:
            weights = weights_ahead
        if following is not None:  # as above, a turn ahead
            ahead = fetch(*following)
            weights_ahead = fetch_weights(following[0]) if following[1] == 0 else weights_ahead
        b.scheduling_barrier()
        with b.computed_at_use():  # behind the last loads: 5 x 5 windows take a tenth fewer cycles so (modelled, Cortex-A72)
            for q in range(0, len(quarters), 2):
                for i, products in enumerate(b.products8(values, weights, 4 * q)):
                    sums[x][q + i] = b.bind(sums[x][q + i] + products)
    scale, bias = (
        [b.load(buffers[name], channel + 4 * q) for q in quarters] if name in buffers else None for name in ("scale", "bias")
    )
    assert scale
    inverse = b.bind(T.Broadcast(buffers["inverse"][0], 4)) if "inverse" in buffers else None
    for x in range(columns):
        values = [b.cast(total, "float32x4") for total in sums[x]]
        values = [b.bind(b.fma(v, scale[q], bias[q]) if bias else v * scale[q]) for q, v in enumerate(values)]
        done = _finished(spec, b, values, inverse)
        place = b.bind(to + channel + x * spec.channels)
        if spec.quantize:
            b.store(buffers["out"], b.to_int8(done, spec.qmax), place, lanes)
        else:
            for q, value in enumerate(done):
                b.store(buffers["out"], value, place + 4 * q)
