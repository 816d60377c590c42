"""MatMul of two activations, or of one and constant matrices, and a multiplication by a constant behind it -> batched product."""

from __future__ import annotations

import math

from edgeemo.compile.ir import Graph, PassContext, Var, call_kernel, rows_per_stream, static_shape
from edgeemo.compile.kernels import batched_matmul


def run(graph: Graph, context: PassContext) -> None:
    for binding in list(graph.bindings):
        root = binding.var
        spec = product(graph, root) if graph.is_op(root, "matmul") and root not in graph.changed else None
        if spec is None:
            continue
        (a, w), user = graph.args(root), graph.only_user(root)
        if user is not None and graph.is_op(user, "multiply"):
            x, y = graph.args(user)
            factor = graph.scalar(y if x == root else x)
            if factor is not None:
                spec, root = spec.times(factor), user
        graph.rebind(root, call_kernel(context.table.add(spec, batched_matmul.build), [a, w], root))


def product(graph: Graph, root: Var) -> batched_matmul.BatchedProduct | None:
    """None where the kernel does not fit: matrices that are not one for one, but for constant ones without a batch."""
    a, w = graph.args(root)
    left, right, constant = static_shape(a), static_shape(w), graph.constant(w)
    if graph.constant(a) is not None or len(left) < 3 or rows_per_stream(a) is None or root.ty.dtype != "float32":
        return None
    if None in right[1:] or None in left[1:] or len(right) < 3:
        return None
    of_an_item = left[1:-2]
    if constant is None and left[:-2] != right[:-2]:
        return None
    matrices, rows = math.prod(d or 1 for d in of_an_item), left[-2] or 0
    if constant is not None:
        of_constant = _without_ones(right[:-2])
        if constant.dtype != "float32" or (of_constant and of_constant != _without_ones(of_an_item)):
            return None
        matrices, rows = (matrices, rows) if of_constant else (1, matrices * rows)
    return batched_matmul.BatchedProduct(matrices, rows, left[-1] or 0, right[-1] or 0, shared=constant is not None)


def _without_ones(dims: list[int | None]) -> list[int | None]:
    return [d for d in dims if d != 1]
