"""MatMul, Gemm and Conv with constant weights -> our GEMM kernels, with what follows them fused.

The product's weights decide its kernel: dequantize(int8) with a dequantized activation -> s8; cast(float16) -> f16; plain float32
-> f32. Then, as long as each value has one user: + bias (per column) -> gelu -> + residual -> quantize.

Convolutions come channels-first from ONNX and run channels-last here, where a row's taps lie in one piece. Transposes that the
exporter put around them cancel; where there are none, they are put in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from edgeemo.compile.kernels import gemm, pack
from edgeemo.compile.passes.graph import (
    Expr,
    Graph,
    KernelTable,
    Var,
    call_kernel,
    new_var,
    rows_per_stream,
    static_shape,
)

PRODUCTS = ("relax.matmul", "relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")  # kernels take the first two


@dataclass
class _Product:
    """One product before its epilogue: ``weight`` is (groups, taps, tap_k, group_n); ``scale`` per column for s8."""

    spec: gemm.Gemm
    data: Expr
    weight: np.ndarray
    scale: np.ndarray | None
    conv: bool
    before: list[tuple[Var, Expr]]
    offset: np.ndarray | None = None  # per column, where the data's zero is not 0: what it adds to every sum


def run(graph: Graph, table: KernelTable) -> list[str]:
    """Rebinds every product that fits; returns a line for each that stays with TVM's stock operators."""
    left = []
    for binding in list(graph.bindings):
        root = binding.var
        if graph.op(root) not in PRODUCTS:
            continue
        product = None
        if graph.op(root) in PRODUCTS[:2]:
            product = _matmul(graph, root) if graph.op(root) == "relax.matmul" else _conv(graph, root)
        if _weights(graph, graph.args(root)[1]) is not None:
            table.products.append(None if product is None else product.spec.weights)
        if product is not None:
            _emit(graph, table, root, product)
        elif graph.op(root) != "relax.matmul" or graph.constant(graph.args(root)[1]) is not None:
            left.append(f"{graph.op(root)} {static_shape(root)}")
    return left


def _weights(graph: Graph, value: Expr) -> tuple[str, np.ndarray, np.ndarray | None] | None:
    """(kernel type, array, scale per last axis or scalar) of a constant weight, however it is stored."""
    if graph.is_op(value, "permute_dims"):
        inner = _weights(graph, graph.args(value)[0])
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


def _quantized_data(graph: Graph, value: Expr) -> tuple[Expr, float, int] | None:
    """(int8 tensor, scale, zero point) under a per-tensor dequantize."""
    data = graph.arg(value, "dequantize")
    if data is None:
        return None
    scale, zero = graph.scalar(graph.args(value)[1]), graph.scalar(graph.args(value)[2])
    return (data, scale, int(zero)) if scale is not None and zero is not None and data.ty.dtype == "int8" else None


def _offset(weight: np.ndarray, zero: int, column_scale: np.ndarray) -> np.ndarray | None:
    """sum (a - zero) w = sum a w - zero sum w: the second is known. ``weight`` is (groups, taps, tap_k, group_n)."""
    sums = weight.astype(np.int64).sum(axis=(1, 2)).reshape(-1)
    return -zero * sums * column_scale if zero else None


def _matmul(graph: Graph, root: Var) -> _Product | None:
    data, weight_value = graph.args(root)
    found = _weights(graph, weight_value)
    if found is None or found[1].ndim != 2:
        return None
    kind, weight, scale = found
    k, n = weight.shape
    a_scale, zero = 1.0, 0
    before: list[tuple[Var, Expr]] = []
    if kind == "s8":
        quantized = _quantized_data(graph, data)
        if quantized is None:
            return None
        data, a_scale, zero = quantized
        data, weight = _padded(graph, data, weight, 0, before)
        k = len(weight)
    rows = rows_per_stream(data)
    if rows is None:
        return None
    spec = gemm.Gemm(kind, rows, 1, k, 0, k, rows * k, n)
    if kind != "s8" and graph.is_op(data, "permute_dims") and (columns := _transposed_columns(graph, data)):
        # The last two axes swapped: read by strides instead of copied. A row's elements are ``columns`` apart.
        data = graph.args(data)[0]
        spec = gemm.Gemm(kind, rows, k, 1, columns, 1, rows * k, n, block=columns, block_stride=columns * k)
    column_scale = None if scale is None else np.broadcast_to(scale * a_scale, (n,))
    ordered = weight.reshape(1, 1, k, n)
    offset = None if column_scale is None else _offset(ordered, zero, column_scale)
    return _Product(spec, data, ordered, column_scale, False, before, offset)


def _transposed_columns(graph: Graph, value: Expr) -> int:
    """Rows per matrix of a tensor whose last two axes are swapped, 0 for any other transpose."""
    shape = static_shape(value)
    axes = graph.attrs(value).axes
    swapped = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    return (shape[-2] or 0) if len(shape) > 2 and axes is not None and [int(a) for a in axes] == swapped else 0


def _channels_last(graph: Graph, value: Expr, before: list[tuple[Var, Expr]]) -> Expr:
    """``value`` (B, C, T) as (B, T, C): the other side of a transpose that is there, or of one put in."""
    if graph.is_op(value, "permute_dims") and [int(a) for a in graph.attrs(value).axes] == [0, 2, 1]:
        return graph.args(value)[0]
    if graph.is_op(value, "quantize"):
        source = _channels_last(graph, graph.args(value)[0], before)
        var = new_var("quantized", list(source.ty.shape), "int8")
        graph.value[var] = relax.op.quantize(source, *graph.args(value)[1:], axis=-1, out_dtype="int8")
        before.append((var, graph.value[var]))
        return var
    batch, channels, time = value.ty.shape
    var = new_var("channels_last", [batch, time, channels], value.ty.dtype)
    graph.value[var] = relax.op.permute_dims(value, [0, 2, 1])
    before.append((var, graph.value[var]))
    return var


def _padded(graph: Graph, data: Expr, weight: np.ndarray, axis: int, before: list[tuple[Var, Expr]]) -> tuple[Expr, np.ndarray]:
    """int8 ``data`` (..., k) and its weights, filled up with zeros to the multiple of k that the kernel's loads take; ``axis`` is
    the weights' k."""
    more = -weight.shape[axis] % pack.K_S8
    if not more:
        return data, weight
    shape = list(data.ty.shape)
    var = new_var("padded", [*shape[:-1], weight.shape[axis] + more], "int8")
    graph.value[var] = relax.op.nn.pad(data, [0, 0] * (len(shape) - 1) + [0, more])
    before.append((var, graph.value[var]))
    return var, np.pad(weight, [(0, more if i == axis else 0) for i in range(weight.ndim)])


def _conv(graph: Graph, root: Var) -> _Product | None:
    attrs: Any = graph.attrs(root)
    data, weight_value = graph.args(root)
    found = _weights(graph, weight_value)
    padding, dilation = [int(p) for p in attrs.padding], int(attrs.dilation[0])
    if found is None or any(padding) or str(attrs.data_layout) != "NCW":
        return None
    kind, weight, scale = found
    n, tap_k, taps = weight.shape
    groups, stride = int(attrs.groups), int(attrs.strides[0])
    a_scale, zero = 1.0, 0
    if kind == "s8":
        quantized = _quantized_data(graph, data)
        if quantized is None or (tap_k % pack.K_S8 and groups > 1):
            return None
        data, a_scale, zero = quantized
    time, rows = static_shape(data)[2], static_shape(root)[2]
    if time is None or rows is None or rows_per_stream(data) is None:
        return None
    before: list[tuple[Var, Expr]] = []
    data = _channels_last(graph, data, before)
    if kind == "s8":
        data, weight = _padded(graph, data, weight, 1, before)
        tap_k = weight.shape[1]
    channels = tap_k * groups
    spec = gemm.Gemm(kind, rows, taps, tap_k, channels * dilation, channels * stride, channels * time, n, groups)
    ordered = weight.reshape(groups, n // groups, tap_k, taps).transpose(0, 3, 2, 1)
    column_scale = None if scale is None else np.broadcast_to(scale * a_scale, (n,))
    offset = None if column_scale is None else _offset(ordered, zero, column_scale)
    return _Product(spec, data, ordered, column_scale, True, before, offset)


def _emit(graph: Graph, table: KernelTable, root: Var, product: _Product) -> None:
    spec = product.spec
    bias, residual, inverse, root, channels_first = _epilogue(graph, root, product)
    if product.offset is not None:
        bias = product.offset if bias is None else bias + product.offset
    spec = replace(
        spec, bias=bias is not None, gelu=product.spec.gelu, residual=residual is not None, quantize=inverse is not None
    )
    if inverse is not None and product.scale is not None and not spec.gelu and residual is None:
        # Nothing between the sums and the rounding but the scale and the bias: they take the output's scale in.
        product.scale = product.scale * inverse
        bias = None if bias is None else bias * inverse
        spec, inverse = replace(spec, scaled=True), None
    weight = np.ascontiguousarray(product.weight)
    columns = table.target.tiles[spec.weights][1]
    sparse = pack.sparse_rows(weight[0, 0], columns) if spec.weights == "f32" and spec.taps == spec.groups == 1 else None
    if sparse is not None:
        counts, index, packed = sparse
        spec = replace(spec, kept=counts)
    else:
        packed = pack.pack_s8(weight) if spec.weights == "s8" else pack.pack_float(weight, columns)
    args: list[Expr] = [product.data, relax.const(packed.reshape(-1))]
    if sparse is not None:
        args.append(relax.const(index))
    if product.scale is not None:
        args.append(relax.const(pack.pad_columns(product.scale, spec.groups)))
    if bias is not None:
        args.append(relax.const(pack.pad_columns(bias, spec.groups)))
    if residual is not None:
        args.append(residual)
    if inverse is not None:
        args.append(relax.const(np.array([inverse[0]], np.float32)))
    name = table.add(spec, gemm.build)
    if not channels_first:
        graph.rebind(root, call_kernel(name, args, root), product.before)
        return
    batch, channels, time = root.ty.shape
    last = new_var("channels_last", [batch, time, channels], root.ty.dtype)
    graph.value[last] = call_kernel(name, args, last)
    graph.rebind(root, relax.op.permute_dims(last, [0, 2, 1]), [*product.before, (last, graph.value[last])])


def _epilogue(graph: Graph, root: Var, product: _Product) -> tuple[np.ndarray | None, Expr | None, np.ndarray | None, Var, bool]:
    """Follows the product's only users. Returns bias, residual, 1 / output scale per column, the last variable absorbed, and
    whether that one is still channels-first."""
    spec = product.spec
    bias: np.ndarray | None = None
    residual: Expr | None = None
    channels_first = product.conv
    place = {b.var: i for i, b in enumerate(graph.bindings)}
    while (user := graph.only_user(root)) is not None:
        if channels_first and graph.is_op(user, "permute_dims") and [int(a) for a in graph.attrs(user).axes] == [0, 2, 1]:
            channels_first = False
        elif graph.is_op(user, "reshape") and residual is None and _same_columns(user, spec.n) and not product.conv:
            pass
        elif graph.is_op(user, "add"):
            a, b = graph.args(user)
            other = b if a == root else a
            array = _constant(graph, other)
            if array is not None and bias is None and not spec.gelu and residual is None and array.size == spec.n:
                bias = array.reshape(-1)
            elif (
                array is None
                and residual is None
                and not channels_first
                and isinstance(other, relax.Var)
                and other != root
                and static_shape(other) == static_shape(root)
                and spec.group_n % 4 == 0
                and place.get(other, -1) < place[user]
            ):
                residual = other
            else:
                break
        elif graph.is_op(user, "nn.gelu") and not spec.gelu and residual is None:
            spec = product.spec = replace(spec, gelu=True)
        elif graph.is_op(user, "quantize"):
            scale, zero = graph.constant(graph.args(user)[1]), graph.scalar(graph.args(user)[2])
            if scale is None or zero != 0 or user.ty.dtype != "int8":
                break
            if scale.size == 1:
                scale = np.broadcast_to(scale.reshape(-1), (spec.n,))
            elif scale.size != spec.n or spec.gelu or residual is not None or spec.weights != "s8":
                break
            return bias, residual, 1.0 / scale.astype(np.float64), user, channels_first
        else:
            break
        root = user
    return bias, residual, None, root, channels_first


def _constant(graph: Graph, value: Expr) -> np.ndarray | None:
    """Of a bias, also one that is kept as int32 under a dequantize, as ONNX Runtime writes it, and reshaped."""
    while graph.is_op(value, "reshape") or graph.is_op(value, "expand_dims"):
        value = graph.args(value)[0]
    data = graph.arg(value, "dequantize")
    if data is None:
        return graph.constant(value)
    array, scale, zero = (graph.constant(a) for a in graph.args(value)[:3])
    if array is None or scale is None or zero is None or zero.any() or scale.size not in (1, array.size):
        return None
    return array.reshape(-1) * scale.reshape(-1).astype(np.float64)


def _same_columns(var: Var, n: int) -> bool:
    """Whether a reshape keeps the last axis, so that rows stay rows."""
    return static_shape(var)[-1] == n and len(static_shape(var)) >= 2
