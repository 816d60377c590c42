"""Clip, which TVM's importer writes as loops of its own and a check of its bounds for NaN -> maximum and minimum, and behind a
quantize, by as much on either side, clip.

As operators they can move with the layout (convolution.py) and fuse with what is around them.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from edgeemo.compile.ir import Expr, Graph, PassContext, Var
from edgeemo.targets.capabilities import INT8_MAX

SIDES = {"maximum": relax.op.maximum, "minimum": relax.op.minimum}


def run(graph: Graph, context: PassContext) -> None:
    for binding in graph.bindings:
        root = binding.var
        name = _loops(graph, root)
        if name not in SIDES:
            continue
        data, bound = graph.value[root].args[1].fields
        number = _bound(graph, bound)
        if str(root.ty.dtype) == "int8":
            _narrow(graph, root, name, data, number)
            continue
        if number is not None and not math.isnan(number):
            graph.rebind(root, SIDES[name](data, relax.const(np.float32(number))))


def _narrow(graph: Graph, root: Var, name: str, data: Expr, high: float | None) -> None:
    """The second of the two loops behind a quantize whose values nothing else uses. At 127 it stays: kernels take that for no
    clip, and the least of int8 is beyond it."""
    if name != "minimum" or _loops(graph, data) != "maximum" or high is None or not 0 < high < INT8_MAX:
        return
    quantized, low = graph.value[data].args[1].fields
    users = graph.only_user(quantized), graph.only_user(data)
    if graph.is_op(quantized, "quantize") and users == (data, root) and _bound(graph, low) == -high:
        graph.rebind(root, relax.op.clip(quantized, -int(high), int(high)))
        graph.bypass(quantized, root)
        graph.qmax[root] = int(high)


def _loops(graph: Graph, var: Var) -> str:
    """Name of the TIR function that TVM emitted for a Clip bound (maximum or minimum) of float or int8; "" for any other."""
    if not graph.is_op(var, "call_tir"):
        return ""
    function, arguments = graph.args(var)[:2]
    if not isinstance(function, tvm.ir.GlobalVar) or len(arguments.fields) != 2:
        return ""
    return str(function.name_hint).rstrip("0123456789") if str(var.ty.dtype) in ("float32", "int8") else ""


def _bound(graph: Graph, value: Expr) -> float | None:
    """A constant number, or one that is itself where it is no NaN."""
    if graph.is_op(value, "where"):
        value = graph.args(value)[2]
    return graph.scalar(value)
