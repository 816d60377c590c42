"""A quantize and the clip that may follow it."""

from __future__ import annotations

from edgeemo.compile.ir import Graph, Var


def end_of_quantize(graph: Graph, quantized: Var) -> Var:
    """The variable of a quantize, or of the clip behind it (passes/canonicalize_clip.py)."""
    user = graph.only_user(quantized)
    return user if user is not None and user in graph.qmax and graph.is_op(user, "clip") else quantized
