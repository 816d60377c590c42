"""Parts of a quantize or dequantize that kernels take, and the clip that may follow it."""

from __future__ import annotations

from edgeemo.compile.ir import Expr, Graph, Var


def end_of_quantize(graph: Graph, quantized: Var) -> Var:
    """The variable of a quantize, or of the clip behind it (passes/canonicalize_clip.py)."""
    user = graph.only_user(quantized)
    return user if user is not None and user in graph.qmax and graph.is_op(user, "clip") else quantized


def symmetric_scale(graph: Graph, value: Expr) -> float | None:
    """The one scale of a quantize or dequantize between float and int8 without a zero point; None for any other, which no kernel
    may take in."""
    data, scale, zero = graph.args(value)[0], *(graph.scalar(a) for a in graph.args(value)[1:3])
    int8 = value if graph.is_op(value, "quantize") else data
    return scale if zero == 0 and int8.ty.dtype == "int8" else None
