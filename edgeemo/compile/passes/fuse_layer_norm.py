"""LayerNorm (with a following quantize and clip), and quantize on its own -> our kernels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tvm import relax

from edgeemo.compile.ir import Expr, Graph, KernelTable, Var, call_kernel, rows_per_stream, static_shape
from edgeemo.compile.kernels import layer_norm
from edgeemo.compile.passes.canonicalize_clip import narrowed
from edgeemo.targets.capabilities import INT8_MAX


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
        epsilon, qmax = float(graph.attrs(root).epsilon), INT8_MAX
        if quantize:
            root, scale = narrowed(graph, user), graph.scalar(graph.args(user)[1])
            assert scale is not None
            arrays = [np.asarray(graph.constant(a), np.float64) / scale for a in (gamma, beta)]
            args[1:] = [relax.const(a.astype(np.float32)) for a in arrays]
            qmax = graph.qmax.get(root, INT8_MAX)
        spec = layer_norm.LayerNorm(rows, width, epsilon, quantize, qmax)
        graph.rebind(root, call_kernel(table.add(spec, layer_norm.build_layer_norm), args, root))


def run_quantize(graph: Graph, table: KernelTable) -> None:
    """Every symmetric int8 quantize that no other kernel has taken in, with the clip behind it."""
    clips = [(r, v) for r, v, value in _calls(graph) if v in graph.qmax and graph.is_op(v, "clip")]
    for root, var in clips:
        inner = graph.args(var)[0]
        if graph.is_op(inner, "quantize"):
            _quantize(graph, table, root, var, inner)
    used = {u for _, _, value in _calls(graph) for u in relax.analysis.free_vars(value)} | set(graph.results())
    for root, var, _ in list(_calls(graph)):
        if graph.is_op(var, "quantize") and var in used:
            _quantize(graph, table, root, var, var)


def _calls(graph: Graph) -> Iterator[tuple[Var, Var, Expr]]:
    """Every binding as it is now: (variable of the binding that it stands for, variable, value)."""
    for binding in graph.bindings:
        for var, value in graph.changed.get(binding.var, [(binding.var, graph.value[binding.var])]):
            if isinstance(value, relax.Call):
                yield binding.var, var, value


def _quantize(graph: Graph, table: KernelTable, root: Var, var: Var, quantize: Var) -> None:
    """``var``: the quantize itself or the clip behind it."""
    x, scale, zero = graph.args(quantize)[0], *(graph.scalar(a) for a in graph.args(quantize)[1:3])
    if scale is None or zero != 0 or var.ty.dtype != "int8" or rows_per_stream(x) is None:
        return
    spec = layer_norm.Quantize(int(np.prod([d or 1 for d in static_shape(x)[1:]])), graph.qmax.get(var, INT8_MAX))
    args = [x, relax.const(np.array([1.0 / scale], np.float32))]
    call = call_kernel(table.add(spec, layer_norm.build_quantize), args, var)
    graph.value[var] = call
    if root in graph.changed:
        graph.changed[root] = [(v, call if v == var else e) for v, e in graph.changed[root]]
    else:
        graph.rebind(root, call)
