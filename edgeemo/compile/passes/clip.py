"""Clip, which TVM's importer writes as loops of its own and a check of its bounds for NaN -> maximum and minimum.

As operators they can move with the layout (convolution.py) and fuse with what is around them.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from edgeemo.compile.passes.graph import Expr, Graph, Var

SIDES = {"maximum": relax.op.maximum, "minimum": relax.op.minimum}


def run(graph: Graph) -> None:
    for binding in graph.bindings:
        root = binding.var
        name = _loops(graph, root)
        if name not in SIDES:
            continue
        data, bound = graph.value[root].args[1].fields
        number = _bound(graph, bound)
        if number is not None and not math.isnan(number):
            graph.rebind(root, SIDES[name](data, relax.const(np.float32(number))))


def _loops(graph: Graph, var: Var) -> str:
    """What the loops that make ``var`` are called, without the number that tells them from others; two inputs, float."""
    call = graph.value[var]
    if not graph.is_op(var, "call_tir") or not isinstance(call.args[0], tvm.ir.GlobalVar) or len(call.args[1].fields) != 2:
        return ""
    return str(call.args[0].name_hint).rstrip("0123456789") if str(var.ty.dtype) == "float32" else ""


def _bound(graph: Graph, value: Expr) -> float | None:
    """A constant number, or one that is itself where it is no NaN."""
    if graph.is_op(value, "where"):
        value = graph.args(value)[2]
    return graph.scalar(value)
