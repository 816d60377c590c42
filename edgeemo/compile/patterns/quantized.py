"""A quantize and the clip behind it, as passes/canonicalize_clip.py leaves the two."""

from __future__ import annotations

from edgeemo.compile.ir import Graph, Var


def narrowed(graph: Graph, quantized: Var) -> Var:
    """The variable of a quantize, or of the clip behind it."""
    user = graph.only_user(quantized)
    return user if user is not None and user in graph.qmax and graph.is_op(user, "clip") else quantized
