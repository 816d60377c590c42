"""Quantize on its own, with the clip behind it -> our kernel: those that no other kernel has taken in."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgeemo.compile.ir import Graph, KernelTable, PassContext, Var, call_kernel, rows_per_stream, static_shape
from edgeemo.compile.kernels import layer_norm
from edgeemo.compile.patterns.quantize import symmetric_scale
from edgeemo.targets.capabilities import INT8_MAX


def run(graph: Graph, context: PassContext) -> None:
    """Every symmetric int8 quantize that no other kernel has taken in, with the clip behind it."""
    clips = [(r, v) for r, v, value in graph.calls() if v in graph.qmax and graph.is_op(v, "clip")]
    for root, var in clips:
        inner = graph.args(var)[0]
        if graph.is_op(inner, "quantize"):
            _quantize(graph, context.table, root, var, inner)
    used = {u for _, _, value in graph.calls() for u in relax.analysis.free_vars(value)} | set(graph.results())
    for root, var, _ in list(graph.calls()):
        if graph.is_op(var, "quantize") and var in used:
            _quantize(graph, context.table, root, var, var)


def _quantize(graph: Graph, table: KernelTable, root: Var, var: Var, quantize: Var) -> None:
    """``var``: the quantize itself or the clip behind it."""
    x, scale = graph.args(quantize)[0], symmetric_scale(graph, quantize)
    if scale is None or rows_per_stream(x) is None:
        return
    spec = layer_norm.Quantize(int(np.prod([d or 1 for d in static_shape(x)[1:]])), graph.qmax.get(var, INT8_MAX))
    args = [x, relax.const(np.array([1.0 / scale], np.float32))]
    graph.replace_call(root, var, call_kernel(table.add(spec, layer_norm.build_quantize), args, var))
