"""MatMul, Gemm and Conv with constant weights -> our GEMM kernels, with what follows them fused.

The product's weights decide its kernel: dequantize(int8) with a dequantized activation -> s8; cast(float16) -> f16; plain float32
-> f32. Then, as long as each value has one user: + bias (per column) -> gelu or relu -> + residual -> quantize.

Convolutions come channels-first from ONNX and run channels-last here (convolution.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import relax

from edgeemo.compile.kernels import gemm, pack
from edgeemo.compile.passes import convolution, depthwise
from edgeemo.compile.passes.graph import Expr, Graph, KernelTable, Var, call_kernel, rows_per_stream, static_shape
from edgeemo.compile.passes.weights import (
    Product,
    constant_bias,
    padded_to_kernel,
    quantized_data,
    read_weights,
    zero_point_offset,
)

MATMUL = "relax.matmul"
PRODUCTS = (MATMUL, *convolution.CONVOLUTIONS, "relax.nn.conv3d")


def run(graph: Graph, table: KernelTable) -> list[str]:
    """Rebinds every product that fits; returns a line for each that stays with TVM's stock operators."""
    left = []
    transposed: convolution.Transposed = {}
    for binding in list(graph.bindings):
        root = binding.var
        if graph.op(root) not in PRODUCTS:
            convolution.sink(graph, root, transposed)
            continue
        product, taken = None, None
        weighted = read_weights(graph, graph.args(root)[1]) is not None
        if graph.op(root) == MATMUL:
            product = _matmul(graph, root)
        elif graph.op(root) in convolution.CONVOLUTIONS:
            product = convolution.product(graph, root, transposed)
            taken = depthwise.run(graph, table, root, transposed) if product is None else None
        if weighted:
            table.products.append(taken if product is None else product.spec.weights)
        if product is not None:
            _emit(graph, table, root, product, transposed)
        elif taken is None and (graph.op(root) != MATMUL or graph.constant(graph.args(root)[1]) is not None):
            left.append(f"{graph.op(root)} {static_shape(root)}")
    return left


def _matmul(graph: Graph, root: Var) -> Product | None:
    data, weight_value = graph.args(root)
    found = read_weights(graph, weight_value)
    if found is None or found[1].ndim != 2:
        return None
    kind, weight, scale = found
    k, n = weight.shape
    a_scale, zero = 1.0, 0
    before: list[tuple[Var, Expr]] = []
    if kind == "s8":
        quantized = quantized_data(graph, data)
        if quantized is None:
            return None
        data, a_scale, zero = quantized
        data, weight = padded_to_kernel(graph, data, weight, 0, before)
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
    offset = None if column_scale is None else zero_point_offset(ordered, zero, column_scale)
    return Product(spec, data, ordered, column_scale, False, before, offset)


def _transposed_columns(graph: Graph, value: Expr) -> int:
    """Rows per matrix of a tensor whose last two axes are swapped, 0 for any other transpose."""
    shape = static_shape(value)
    axes = graph.attrs(value).axes
    swapped = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    return (shape[-2] or 0) if len(shape) > 2 and axes is not None and [int(a) for a in axes] == swapped else 0


def _emit(graph: Graph, table: KernelTable, root: Var, product: Product, transposed: convolution.Transposed) -> None:
    spec = product.spec
    bias, residual, inverse, root, channels_first = _epilogue(graph, root, product)
    if product.offset is not None:
        bias = product.offset if bias is None else bias + product.offset
    spec = replace(
        spec,
        bias=bias is not None,
        gelu=product.spec.gelu,
        relu=product.spec.relu,
        residual=residual is not None,
        quantize=inverse is not None,
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
    last = convolution.like_last(root)
    graph.value[last] = call_kernel(name, args, last)
    convolution.channels_first(graph, root, transposed, product.before, last)


def _epilogue(graph: Graph, root: Var, product: Product) -> tuple[np.ndarray | None, Expr | None, np.ndarray | None, Var, bool]:
    """Follows the product's only users. Returns bias, residual, 1 / output scale per column, the last variable absorbed, and
    whether that one is still channels-first."""
    spec = product.spec
    bias: np.ndarray | None = None
    residual: Expr | None = None
    channels_first = product.conv
    place = {b.var: i for i, b in enumerate(graph.bindings)}
    while (user := graph.only_user(root)) is not None:
        if channels_first and graph.is_op(user, "permute_dims") and _to_last(graph, user):
            channels_first = False
        elif graph.is_op(user, "reshape") and residual is None and _same_columns(user, spec.n) and not product.conv:
            pass
        elif graph.is_op(user, "add"):
            a, b = graph.args(user)
            other = b if a == root else a
            array = constant_bias(graph, other)
            if array is not None and bias is None and not spec.activated and residual is None and array.size == spec.n:
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
        elif graph.is_op(user, "nn.gelu") and not spec.activated and residual is None:
            spec = product.spec = replace(spec, gelu=True)
        elif graph.is_op(user, "nn.relu") and not spec.activated and residual is None:
            spec = product.spec = replace(spec, relu=True)
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


def _to_last(graph: Graph, var: Var) -> bool:
    axes = [int(a) for a in graph.attrs(var).axes]
    return axes == convolution.LAST.get(len(axes))


def _same_columns(var: Var, n: int) -> bool:
    """Whether a reshape keeps the last axis, so that rows stay rows."""
    return static_shape(var)[-1] == n and len(static_shape(var)) >= 2
