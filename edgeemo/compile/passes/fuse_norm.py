"""LayerNorm (with a following quantize) and quantize on its own -> our kernels."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgeemo.compile.kernels import norm
from edgeemo.compile.passes.graph import Graph, KernelTable, call_kernel, rows_per_stream, static_shape


def run(graph: Graph, table: KernelTable) -> None:
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
        quantize = user is not None and graph.is_op(user, "quantize") and graph.scalar(graph.args(user)[1]) is not None
        spec = norm.LayerNorm(rows, width, float(graph.attrs(root).epsilon), quantize)
        if quantize:
            root, scale = user, graph.scalar(graph.args(user)[1])
            assert scale is not None
            arrays = [np.asarray(graph.constant(a), np.float64) / scale for a in (gamma, beta)]
            args[1:] = [relax.const(a.astype(np.float32)) for a in arrays]
        graph.rebind(root, call_kernel(table.add(spec, norm.build_layer_norm), args, root))


def run_quantize(graph: Graph, table: KernelTable) -> None:
    """Every symmetric int8 quantize that no other kernel has taken in."""
    for binding in list(graph.bindings):
        root = binding.var
        for var, value in graph.changed.get(root, [(root, graph.value[root])]):
            if not (isinstance(value, relax.Call) and graph.is_op(var, "quantize")):
                continue
            x, scale, zero = value.args[0], graph.scalar(value.args[1]), graph.scalar(value.args[2])
            if scale is None or zero != 0 or var.ty.dtype != "int8" or rows_per_stream(x) is None:
                continue
            size = int(np.prod([d or 1 for d in static_shape(x)[1:]]))
            args = [x, relax.const(np.array([1.0 / scale], np.float32))]
            call = call_kernel(table.add(norm.Quantize(size), norm.build_quantize), args, var)
            graph.value[var] = call
            if root in graph.changed:
                graph.changed[root] = [(v, call if v == var else e) for v, e in graph.changed[root]]
            else:
                graph.rebind(root, call)
