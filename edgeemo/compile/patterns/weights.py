"""Matches a product's weights and data: how they are stored, and what a kernel needs of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from edgeemo.compile.ir import Expr, Graph, Var
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets import capabilities

ANY_INT8 = 128  # largest magnitude


@dataclass
class Product:
    """One product before its epilogue: ``weight`` is (groups, taps, tap_k, group_n); ``scale`` per column for s8."""

    spec: Gemm
    data: Expr
    weight: np.ndarray
    scale: np.ndarray | None
    conv: bool
    before: list[tuple[Var, Expr]]
    offset: np.ndarray | None = None  # per column, where the data's zero is not 0: what it adds to every sum
    qmax: int = ANY_INT8  # magnitude of int8 data

    def multiply(self, factor: np.ndarray) -> None:
        """Every result by its column's ``factor``."""
        if self.scale is None:
            groups, _, _, n = self.weight.shape
            self.weight = (self.weight * factor.reshape(groups, 1, 1, n)).astype(self.weight.dtype)
            return
        self.scale = self.scale * factor
        self.offset = None if self.offset is None else self.offset * factor


def read_weights(graph: Graph, value: Expr) -> tuple[str, np.ndarray, np.ndarray | None] | None:
    """(kernel type, array, scale per last axis or scalar) of a constant weight, however it is stored."""
    if graph.is_op(value, "permute_dims"):
        inner = read_weights(graph, graph.args(value)[0])
        if inner is None:
            return None
        axes = graph.attrs(value).axes
        order = [int(a) for a in axes] if axes is not None else None
        return inner[0], np.transpose(inner[1], order), inner[2]
    array = graph.constant(value)
    if array is not None:
        return ("f32", array, None) if array.dtype == np.float32 else None
    cast = graph.arg(value, "astype")
    if cast is not None and (array := graph.constant(cast)) is not None and array.dtype == np.float16:
        return "f16", array, None
    quantized = graph.arg(value, "dequantize")
    if quantized is not None and (array := graph.constant(quantized)) is not None and array.dtype == np.int8:
        zero = graph.constant(graph.args(value)[2])
        scale = graph.constant(graph.args(value)[1])
        if zero is not None and not zero.any() and scale is not None:
            return "s8", array, scale.reshape(-1)
    return None


def dequantized(weight: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """Int8 weights as float32, for products whose other operand is not quantized; a scale for all or each index of ``axis``."""
    along = np.broadcast_to(scale, (weight.shape[axis],)).reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    return (weight * along).astype(np.float32)


def by_operand(
    graph: Graph, data: Expr, found: tuple[str, np.ndarray, np.ndarray | None], axis: int
) -> tuple[str, np.ndarray, np.ndarray | None, tuple[Expr, float, int] | None]:
    """Weights as ``read_weights`` has ``found`` them, outputs along ``axis``, and the int8 activation that they are multiplied
    with; int8 weights are float32 where that is none."""
    kind, weight, scale = found
    quantized = quantized_data(graph, data) if kind == "s8" else None
    if scale is not None and quantized is None:
        return "f32", dequantized(weight, scale, axis), None, None
    return kind, weight, scale, quantized


def quantized_data(graph: Graph, value: Expr) -> tuple[Expr, float, int] | None:
    """(int8 tensor, scale, zero point) under a per-tensor dequantize."""
    data = graph.arg(value, "dequantize")
    if data is None:
        return None
    scale, zero = graph.scalar(graph.args(value)[1]), graph.scalar(graph.args(value)[2])
    return (data, scale, int(zero)) if scale is not None and zero is not None and data.ty.dtype == "int8" else None


def zero_point_offset(weight: np.ndarray, zero: int, column_scale: np.ndarray) -> np.ndarray | None:
    """sum (a - zero) w = sum a w - zero sum w: the second is known. ``weight`` is (groups, taps, tap_k, group_n)."""
    sums = weight.astype(np.int64).sum(axis=(1, 2)).reshape(-1)
    return -zero * sums * column_scale if zero else None


def padded_to_kernel(
    graph: Graph, data: Expr, weight: np.ndarray, axis: int, before: list[tuple[Var, Expr]]
) -> tuple[Expr, np.ndarray]:
    """int8 ``data`` (..., k) and its weights, filled up with zeros to the multiple of k that the kernel's loads take; ``axis`` is
    the weights' k."""
    more = -weight.shape[axis] % capabilities.K_S8
    if not more:
        return data, weight
    shape = list(data.ty.shape)
    pad = relax.op.nn.pad(data, [0, 0] * (len(shape) - 1) + [0, more])
    var = graph.emit(before, "padded", pad, [*shape[:-1], weight.shape[axis] + more], "int8")
    return var, np.pad(weight, [(0, more if i == axis else 0) for i in range(weight.ndim)])


def constant_bias(graph: Graph, value: Expr) -> np.ndarray | None:
    """Value of a bias, also one that is kept as int32 under a dequantize, as ONNX Runtime writes it, and reshaped."""
    while graph.is_op(value, "reshape") or graph.is_op(value, "expand_dims"):
        value = graph.args(value)[0]
    data = graph.arg(value, "dequantize")
    if data is None:
        return graph.constant(value)
    array, scale, zero = (graph.constant(a) for a in graph.args(value)[:3])
    if array is None or scale is None or zero is None or zero.any() or scale.size not in (1, array.size):
        return None
    return array.reshape(-1) * scale.reshape(-1).astype(np.float64)
