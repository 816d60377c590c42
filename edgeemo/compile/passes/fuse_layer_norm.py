"""LayerNorm, with a following quantize and clip -> our kernel."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgeemo.compile.ir import Graph, PassContext, call_kernel, rows_per_stream, static_shape
from edgeemo.compile.kernels import layer_norm
from edgeemo.compile.patterns.quantize import end_of_quantize, symmetric_scale
from edgeemo.targets.capabilities import INT8_MAX


def run(graph: Graph, context: PassContext) -> None:
    for binding in list(graph.bindings):
        root = binding.var
        if not graph.is_op(root, "nn.layer_norm") or root in graph.changed:
            continue
        x, gamma, beta = graph.args(root)
        axes = [int(a) for a in graph.attrs(root).axes]
        shape = static_shape(x)
        width = shape[-1] or 0
        rows = rows_per_stream(x)
        constant = all(graph.constant(c) is not None for c in (gamma, beta))
        if rows is None or axes not in ([-1], [len(shape) - 1]) or width % 4 or not constant:
            continue
        args = [x, gamma, beta]
        user = graph.only_user(root)
        scale = symmetric_scale(graph, user) if user is not None and graph.is_op(user, "quantize") else None
        epsilon, qmax = float(graph.attrs(root).epsilon), INT8_MAX
        if scale is not None:
            root = end_of_quantize(graph, user)
            arrays = [np.asarray(graph.constant(a), np.float64) / scale for a in (gamma, beta)]
            args[1:] = [relax.const(a.astype(np.float32)) for a in arrays]
            qmax = graph.qmax.get(root, INT8_MAX)
        spec = layer_norm.LayerNorm(rows, width, epsilon, scale is not None, qmax)
        graph.rebind(root, call_kernel(context.table.add(spec, layer_norm.build_layer_norm), args, root))
