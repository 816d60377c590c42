"""Depthwise convolution over two dimensions, float32, channels-last: every channel has a window of its own.

    out[y, x, c] = sum_ij a[y * stride + i * dilation, x * stride + j * dilation, c] w[i, j, c] + bias[c]

Four channels to a vector, eight columns of the output to a tile: a weight that is loaded is used eight times, and no sum waits
for its last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, KernelTarget, kernel

COLUMNS = 8
LANES = 4


@dataclass(frozen=True)
class Depthwise:
    """``height``, ``width``: of what is read, its padding included; pairs are (down, across)."""

    channels: int
    height: int
    width: int
    out: tuple[int, int]
    window: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    bias: bool = False
    relu: bool = False

    @property
    def name(self) -> str:
        tail = "".join(f"_{t}" for t in ("bias", "relu") if getattr(self, t))
        size = "x".join(map(str, (*self.out, self.channels)))
        return f"depthwise_f32_{size}_window{self.window[0]}x{self.window[1]}{tail}"

    @property
    def macs(self) -> int:
        """Per stream and step."""
        return self.out[0] * self.out[1] * self.channels * self.window[0] * self.window[1]


def build(spec: Depthwise, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, a, w (window, channels), [bias], out)."""
    names = ("a", "w", "bias", "out") if spec.bias else ("a", "w", "out")
    with kernel(spec.name, target) as (b, batch):
        buffers = b.pointers(dict.fromkeys(names, "float32"))
        line, whole = spec.width * spec.channels, spec.channels // LANES
        with T.serial(0, batch) as stream, T.serial(0, spec.out[0]) as y:
            read = b.bind(stream * (spec.height * line) + y * (spec.strides[0] * line))
            written = b.bind((stream * spec.out[0] + y) * (spec.out[1] * spec.channels))
            for x, columns in _tiles(spec.out[1]):
                at, to = b.bind(read + x * (spec.strides[1] * spec.channels)), b.bind(written + x * spec.channels)
                with T.serial(0, whole) as vector:
                    _tile(spec, b, buffers, b.bind(vector * LANES), at, to, columns, LANES)
                for channel in range(whole * LANES, spec.channels):
                    _tile(spec, b, buffers, channel, at, to, columns, 1)
    return b.result


def _tiles(width: int) -> Iterator[tuple[Expr, int]]:
    """(first column, columns), the whole ones from a loop."""
    if width >= COLUMNS:
        with T.serial(0, width // COLUMNS) as tile:
            yield tile * COLUMNS, COLUMNS
    if width % COLUMNS:
        yield width // COLUMNS * COLUMNS, width % COLUMNS


def _tile(
    spec: Depthwise, b: Builder, buffers: dict[str, Expr], channel: Expr, at: Expr, to: Expr, columns: int, lanes: int
) -> None:
    zero = T.float32(0) if lanes == 1 else b.splat(0.0)
    first = b.load(buffers["bias"], channel, lanes) if spec.bias else b.bind(zero)
    sums, line = [first] * columns, dict[int, Expr]()

    def fetch(i: int, j: int) -> tuple[list[Expr], Expr]:
        """What the window's place (i, j) lies on, less what is in registers since the place before, and its weight."""
        if j == 0:
            line.clear()
        across = [j * spec.dilations[1] + x * spec.strides[1] for x in range(columns)]
        for x in across:
            if x not in line:
                line[x] = b.load(buffers["a"], at + channel + (i * spec.dilations[0] * spec.width + x) * spec.channels, lanes)
        return [line[x] for x in across], b.load(buffers["w"], channel + (i * spec.window[1] + j) * spec.channels, lanes)

    first_place, *places = [(i, j) for i in range(spec.window[0]) for j in range(spec.window[1])]
    ahead = fetch(*first_place)
    for place in (*places, None):
        values, weight = ahead
        if place is not None:
            ahead = fetch(*place)
        b.fence()  # loads stay a place ahead of their use: LLVM would put them right before it, to wait
        sums = [b.bind(b.fma(a, weight, total, lanes)) for a, total in zip(values, sums, strict=True)]
    for x, value in enumerate(sums):
        if spec.relu:
            value = T.max(value, zero) if lanes == 1 else b.maximum(value, zero)
        b.store(buffers["out"], value, to + channel + x * spec.channels, lanes)
