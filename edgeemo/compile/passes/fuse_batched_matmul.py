"""MatMul of two activations, and a multiplication by a constant behind it -> our batched product."""

from __future__ import annotations

import numpy as np

from edgeemo.compile.ir import Graph, PassContext, call_kernel, rows_per_stream, static_shape
from edgeemo.compile.kernels import batched_matmul


def run(graph: Graph, context: PassContext) -> None:
    for binding in list(graph.bindings):
        root = binding.var
        if not graph.is_op(root, "matmul") or root in graph.changed:
            continue
        a, w = graph.args(root)
        left, right = static_shape(a), static_shape(w)
        if graph.constant(w) is not None or graph.constant(a) is not None or len(left) < 3 or left[:-2] != right[:-2]:
            continue
        if rows_per_stream(a) is None or None in right[1:] or root.ty.dtype != "float32" or (right[-1] or 1) % 4:
            continue
        rows, k, n = left[-2] or 0, left[-1] or 0, right[-1] or 0
        scale, user = 1.0, graph.only_user(root)
        if user is not None and graph.is_op(user, "multiply"):
            x, y = graph.args(user)
            factor = graph.scalar(y if x == root else x)
            if factor is not None:
                scale, root = factor, user
        spec = batched_matmul.BatchedProduct(int(np.prod([d or 1 for d in left[1:-2]])), rows, k, n, scale)
        graph.rebind(root, call_kernel(context.table.add(spec, batched_matmul.build), [a, w], root))
