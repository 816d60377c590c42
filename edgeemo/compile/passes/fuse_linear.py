"""MatMul, Gemm and Conv with constant weights -> our GEMM kernels, with what follows them fused.

The product's weights decide its kernel: dequantize(int8) with a dequantized activation -> s8; cast(float16) -> f16; plain float32
-> f32. What follows comes with it (epilogue.py).

Convolutions come channels-first from ONNX and run channels-last here (convolution.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import relax

from edgeemo.compile.ir import Expr, Graph, KernelTable, PassContext, Var, rows_per_stream, static_shape
from edgeemo.compile.kernels import gemm, pack
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.compile.kernels.vector_math import ACTIVATIONS
from edgeemo.compile.passes import fuse_batched_matmul
from edgeemo.compile.patterns import channels_last, convolution, depthwise, epilogue
from edgeemo.compile.patterns.weights import (
    ANY_INT8,
    Product,
    by_operand,
    padded_to_kernel,
    read_weights,
    zero_point_offset,
)
from edgeemo.targets import capabilities

MATMUL = "relax.matmul"
PRODUCTS = (MATMUL, *convolution.CONVOLUTIONS, "relax.nn.conv3d")


def run(graph: Graph, context: PassContext) -> None:
    """Rebinds every product that fits; notes a line for each that stays with TVM's stock operators."""
    table = context.table
    transposed: channels_last.Transposed = {}
    for binding in list(graph.bindings):
        root = binding.var
        if graph.op(root) not in PRODUCTS:
            channels_last.propagate(graph, root, transposed)
            continue
        product, taken = None, None
        weighted = read_weights(graph, graph.args(root)[1]) is not None
        if graph.op(root) == MATMUL:
            product = _matmul(graph, root)
            taken = "f32" if product is None and weighted and fuse_batched_matmul.product(graph, root) else None
        elif graph.op(root) in convolution.CONVOLUTIONS:
            taken = depthwise.match(graph, table, root, transposed)
            product = convolution.product(graph, root, transposed) if taken is None else None
        if weighted:
            table.products.append(taken if product is None else product.spec.kind)
        if product is not None:
            _emit(graph, table, root, product, transposed)
        elif taken is None and (graph.op(root) != MATMUL or graph.constant(graph.args(root)[1]) is not None):
            context.unfused.append(f"{graph.op(root)} {static_shape(root)}")


def _matmul(graph: Graph, root: Var) -> Product | None:
    data, weight_value = graph.args(root)
    found = read_weights(graph, weight_value)
    if found is None or found[1].ndim != 2:
        return None
    kind, weight, scale, quantized = by_operand(graph, data, found, 1)
    k, n = weight.shape
    a_scale, zero, qmax = 1.0, 0, ANY_INT8
    before: list[tuple[Var, Expr]] = []
    if quantized is not None:
        data, a_scale, zero = quantized
        qmax = graph.qmax.get(data, ANY_INT8)
        data, weight = padded_to_kernel(graph, data, weight, 0, before)
        k = len(weight)
    rows = rows_per_stream(data)
    if rows is None:
        return None
    spec = Gemm(kind, rows, 1, k, 0, k, rows * k, n)
    if kind != "s8" and graph.is_op(data, "permute_dims") and (columns := _transposed_columns(graph, data)):
        # The last two axes swapped: read by strides instead of copied. A row's elements are ``columns`` apart.
        data = graph.args(data)[0]
        spec = Gemm(kind, rows, k, 1, columns, 1, rows * k, n, rows_per_block=columns, block_stride=columns * k)
    column_scale = None if scale is None else np.broadcast_to(scale * a_scale, (n,))
    ordered = weight.reshape(1, 1, k, n)
    offset = None if column_scale is None else zero_point_offset(ordered, zero, column_scale)
    return Product(spec, data, ordered, column_scale, False, before, offset, qmax)


def _transposed_columns(graph: Graph, value: Expr) -> int:
    """Rows per matrix of a tensor whose last two axes are swapped, 0 for any other transpose."""
    shape = static_shape(value)
    axes = graph.attrs(value).axes
    swapped = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    return (shape[-2] or 0) if len(shape) > 2 and axes is not None and [int(a) for a in axes] == swapped else 0


def _emit(graph: Graph, table: KernelTable, root: Var, product: Product, transposed: channels_last.Transposed) -> None:
    spec = product.spec
    takes = {*ACTIVATIONS, "quantize"}
    takes |= {"residual"} if spec.group_n % 4 == 0 else set()
    takes |= {"factor"} if spec.kind != "f16" else set()  # halves may not hold the product
    after = epilogue.follow(graph, root, spec.n, product.conv, spec.kind == "s8", takes)
    if after.factor is not None:
        product.multiply(after.factor)
    after.add_bias(product.offset)
    spec = replace(
        spec,
        bias=after.bias is not None,
        activation=after.activation,
        residual=after.residual is not None,
        quantize=after.inverse is not None,
        qmax=after.qmax,
        microkernel=capabilities.select_microkernel(table.target.microkernels, spec.kind, product.weight, product.qmax),
    )
    if after.scalable and product.scale is not None:
        product.scale, spec = after.scaled(product.scale), replace(spec, requant_folded=True)
    _, columns = table.target.tile(spec.kind, spec.microkernel)
    spec, packed = pack.pack_weights(spec, np.ascontiguousarray(product.weight), columns)
    args: list[Expr] = [product.data, *map(relax.const, packed)]
    if product.scale is not None:
        args.append(relax.const(pack.pad_columns(product.scale, spec.groups)))
    if after.bias is not None:
        args.append(relax.const(pack.pad_columns(after.bias, spec.groups)))
    if after.residual is not None:
        args.append(after.residual)
    if after.inverse is not None:
        args.append(relax.const(np.array([after.inverse[0]], np.float32)))
    epilogue.rebind(graph, after, table.add(spec, gemm.build), args, product.before, transposed)
