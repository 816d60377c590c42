"""The products with constant weights of an ONNX graph, and which of them our kernels did not take."""

from __future__ import annotations

import math

import onnx

from edgeemo.compile.ir import KernelTable
from edgeemo.onnxlib.graph import Shape, dims

UNDER_WEIGHTS = ("DequantizeLinear", "Transpose", "Reshape", "Cast", "Identity")


def weighted_products(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, int, int]]:
    """Those with constant weights, in the graph's order: (node, MACs of one item, bytes of weights)."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {v.name: dims(v) for v in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)}
    constants = {i.name: i for i in model.graph.initializer}
    producer = {o: n for n in model.graph.node for o in n.output}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        weight = node.input[1]
        while weight not in constants and weight in producer and producer[weight].op_type in UNDER_WEIGHTS:
            weight = producer[weight].input[0]
        if weight not in constants:
            continue
        tensor = constants[weight]
        channels = shapes.get(node.output[0], ())
        out = _items(channels)
        wide = channels[1] if node.op_type == "Conv" and len(channels) > 1 else channels[-1] if channels else 1
        macs = out * math.prod(tensor.dims) // (wide if isinstance(wide, int) else 1)
        size = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        found.append((node, macs, size))
    return found


def left_products(model: onnx.ModelProto, table: KernelTable) -> str:
    """Their names, for a message about what then failed; "" where all were taken, or the graph was changed too much to tell."""
    products = weighted_products(model)
    if len(products) != len(table.products):
        return ""
    left = [n for (n, _, _), taken in zip(products, table.products, strict=True) if taken is None]
    # A convolution that is left is slow; what is left of the others is what may not work.
    names = [n.name or n.output[0] for n in sorted(left, key=lambda n: n.op_type == "Conv")]
    return f"; products that no kernel of ours took: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else ""


def _items(shape: Shape) -> int:
    """Elements of one item: what has no size is the batch."""
    return math.prod(d if isinstance(d, int) else 1 for d in shape)
