"""LayerNorm over the last axis, optionally straight to int8, and quantization of a tensor that nothing fuses with."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Expr, kernel
from edgeemo.compile.kernels.specs import KernelSpec
from edgeemo.targets.board import KernelTarget
from edgeemo.targets.capabilities import INT8_MAX


@dataclass(frozen=True)
class LayerNorm(KernelSpec):
    rows: int  # per stream
    width: int  # multiple of 4
    epsilon: float
    quantize: bool = False
    qmax: int = INT8_MAX  # magnitude of what is quantized

    @property
    def name(self) -> str:
        return f"layer_norm_rows{self.rows}_d{self.width}{'_quantize' if self.quantize else ''}"


@dataclass(frozen=True)
class Quantize(KernelSpec):
    size: int  # elements per stream
    qmax: int = INT8_MAX  # magnitude of what is quantized

    @property
    def name(self) -> str:
        return f"quantize_{self.size}"


def build_layer_norm(spec: LayerNorm, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, x, gamma, beta, out). To int8, gamma and beta are those divided by the output's scale.

    Two passes: mean, then variance of the differences.
    """
    with kernel(spec.name, target) as (b, batch):
        dtypes = {"x": "float32", "gamma": "float32", "beta": "float32"}
        dtypes["out"] = "int8" if spec.quantize else "float32"
        x, gamma, beta, out = b.pointers(dtypes).values()
        vectors = spec.width // 4
        lanes = next(n for n in (8, 4, 1) if vectors % n == 0)  # independent sums hide the latency of the additions
        with T.serial(0, batch * spec.rows) as row:
            at = b.bind(row * spec.width)
            sums = b.scratch(4 * lanes)

            def clear() -> None:
                for i in range(lanes):
                    b.store(sums, b.splat(0.0), 4 * i)

            def total():  # type: ignore[no-untyped-def]
                value = b.load(sums, 0)
                for i in range(1, lanes):
                    value = value + b.load(sums, 4 * i)
                return b.bind(b.sum4(b.bind(value)) * T.float32(1.0 / spec.width))

            clear()
            with T.serial(0, vectors // lanes) as v:
                for i in range(lanes):
                    part = b.load(x, at + (v * lanes + i) * 4)
                    b.store(sums, sums[T.Ramp(4 * i, 1, 4)] + part, 4 * i)
            mean = b.bind(b.splat(total()))
            clear()
            with T.serial(0, vectors // lanes) as v:
                for i in range(lanes):
                    part = b.bind(b.load(x, at + (v * lanes + i) * 4) - mean)
                    b.store(sums, b.fma(part, part, sums[T.Ramp(4 * i, 1, 4)]), 4 * i)
            root = b.intrinsic("float32", "llvm.sqrt.f32", total() + T.float32(spec.epsilon))
            inverse_std = b.bind(b.splat(b.bind(T.float32(1.0) / root)))
            shift = b.bind(b.splat(0.0) - mean * inverse_std)

            def one(v: Expr) -> Expr:
                normal = b.bind(b.fma(b.load(x, at + v * 4), inverse_std, shift))
                return b.bind(b.fma(normal, b.load(gamma, v * 4), b.load(beta, v * 4)))

            with T.serial(0, vectors // lanes) as v:
                done = [one(v * lanes + i) for i in range(lanes)]
                if spec.quantize:  # gamma and beta already carry the output's scale
                    for i in range(0, lanes, 4):  # vectors of four at most become bytes together
                        b.store(out, b.to_int8(done[i : i + 4], spec.qmax), at + (v * lanes + i) * 4, min(lanes, 4) * 4)
                else:
                    for i, y in enumerate(done):
                        b.store(out, y, at + (v * lanes + i) * 4)
    return b.result


def build_quantize(spec: Quantize, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, x, out_inverse_scale, out); any size, the last elements one by one."""
    with kernel(spec.name, target) as (b, batch):
        x, inverse, out = b.pointers({"x": "float32", "out_inverse_scale": "float32", "out": "int8"}).values()
        scale = b.bind(T.Broadcast(inverse[0], 4))
        total = b.bind(batch * spec.size)
        width = 16 if spec.size % 16 == 0 else 4
        with T.serial(0, total // width) as v:
            parts = [b.bind(b.load(x, v * width + i) * scale) for i in range(0, width, 4)]
            b.store(out, b.to_int8(parts, spec.qmax), v * width, width)
        if spec.size % 4:
            with T.serial(0, total % 4) as i:
                at = b.bind(total // 4 * 4 + i)
                value = b.bind(b.to_int8([b.bind(T.Broadcast(b.load(x, at, 1), 4) * scale)], spec.qmax))
                b.store(out, T.Shuffle([value], [0]), at, 1)
    return b.result
