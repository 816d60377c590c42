"""Converters from ONNX operators to Relax where TVM's importer has none, or one that gives other numbers than ONNX says.

Each takes (block builder, inputs, attributes, opset) and returns an expression, or None to leave it to TVM's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax

Expr = Any
Converter = Callable[[relax.BlockBuilder, list[Expr], dict[str, Any], int], Expr | None]


def _constant(value: Expr) -> np.ndarray | None:
    return value.value.numpy() if isinstance(value, tvm.ir.GenericConst) else None


def _shape(value: Expr) -> list[Any]:
    return list(value.ty.shape.values)


def _gather(bb: relax.BlockBuilder, inputs: list[Expr], attrs: dict[str, Any], opset: int) -> Expr | None:
    """By constant indices: those below zero are known here, where TVM reads the shape at run time."""
    data, indices = inputs[0], _constant(inputs[1])
    if indices is None or isinstance(data.ty, relax.ShapeType):
        return None
    axis = int(attrs.get("axis", 0)) % len(_shape(data))
    size = _shape(data)[axis]
    if not isinstance(size, tvm.tirx.IntImm):
        return None
    chosen = np.where(indices < 0, indices + int(size), indices).astype(np.int64)
    return relax.op.take(data, relax.const(chosen, "int64"), axis, mode="fast")


def _log(bb: relax.BlockBuilder, inputs: list[Expr], attrs: dict[str, Any], opset: int) -> Expr | None:
    """Minus infinite of zero and not a number below, which the polynomial does not look at; left out where something positive is
    added to what is no power of less than zero, as front ends do."""
    x = inputs[0]
    dtype = str(x.ty.dtype)
    made = bb.lookup_binding(x) if isinstance(x, relax.Var) else x
    if isinstance(made, relax.Call) and made.op == tvm.ir.Op.get("relax.add"):
        floors = [c for c in map(_constant, made.args) if c is not None]
        if any((c > 0).all() for c in floors):
            return None
    zero, least, none = (relax.const(v, dtype) for v in (0.0, -np.inf, np.nan))
    beyond = relax.op.where(relax.op.equal(x, zero), least, none)
    return relax.op.where(relax.op.greater(x, zero), relax.op.log(x), beyond)


def _sign(bb: relax.BlockBuilder, inputs: list[Expr], attrs: dict[str, Any], opset: int) -> Expr | None:
    """Not a number of what is none, where TVM's is zero."""
    x = inputs[0]
    if not str(x.ty.dtype).startswith("float"):
        return None
    found = bb.normalize(relax.op.sign(x))
    return relax.op.where(bb.normalize(relax.op.isnan(x)), x, found)


def _gather_elements(bb: relax.BlockBuilder, inputs: list[Expr], attrs: dict[str, Any], opset: int) -> Expr | None:
    data, indices = inputs
    axis = int(attrs.get("axis", 0)) % len(_shape(data))
    size = _shape(data)[axis]
    if not isinstance(size, tvm.tirx.IntImm):
        return None
    dtype = str(indices.ty.dtype)
    below = relax.op.less(indices, relax.const(0, dtype))
    return relax.op.gather_elements(
        data, relax.op.where(below, relax.op.add(indices, relax.const(int(size), dtype)), indices), axis
    )


def _place_of(op: Callable[..., Expr]) -> Converter:
    """ArgMax and ArgMin, whose place is -1 in TVM's where nothing is beyond the least that a dtype has: of infinities alone, of
    zeros in uint8."""

    def convert(bb: relax.BlockBuilder, inputs: list[Expr], attrs: dict[str, Any], opset: int) -> Expr | None:
        shape = _shape(inputs[0])
        axis, keep = int(attrs.get("axis", 0)) % len(shape), bool(attrs.get("keepdims", 1))
        last = bool(attrs.get("select_last_index", 0))
        if not isinstance(shape[axis], tvm.tirx.IntImm):
            return None
        data = bb.normalize(relax.op.flip(inputs[0], axis)) if last else inputs[0]
        place = bb.normalize(relax.op.maximum(op(data, axis, keep), relax.const(0, "int64")))
        return relax.op.subtract(relax.const(int(shape[axis]) - 1, "int64"), place) if last else place

    return convert


def _hardmax(bb: relax.BlockBuilder, inputs: list[Expr], attrs: dict[str, Any], opset: int) -> Expr | None:
    """One at the place of the largest value, of minus infinities alone, too."""
    shape, dtype = _shape(inputs[0]), str(inputs[0].ty.dtype)
    axis = int(attrs.get("axis", -1 if opset >= 13 else 1)) % len(shape)
    if not isinstance(shape[axis], tvm.tirx.IntImm) or (opset < 13 and axis != len(shape) - 1):
        return None
    place = _place_of(relax.op.argmax)(bb, inputs, {"axis": axis}, opset)
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    places = relax.const(np.arange(int(shape[axis]), dtype=np.int64).reshape(along), "int64")
    return relax.op.astype(relax.op.equal(places, place), dtype)


def _log_sum_exp(bb: relax.BlockBuilder, inputs: list[Expr], attrs: dict[str, Any], opset: int) -> Expr | None:
    """Infinite of an infinity, where the largest value taken off makes it no number."""
    x, axes = inputs[0], attrs.get("axes")
    if axes is None and len(inputs) > 1 and inputs[1] is not None:
        given = _constant(inputs[1])
        axes = None if given is None else given.tolist()
    if not axes or not str(x.ty.dtype).startswith("float"):
        return None
    axes, (zero, least) = [int(a) for a in axes], (relax.const(v, str(x.ty.dtype)) for v in (0.0, -np.inf))
    top = bb.normalize(relax.op.max(x, axes, keepdims=True))
    base = bb.normalize(relax.op.where(relax.op.isinf(top), zero, top))
    total = bb.normalize(relax.op.sum(relax.op.exp(relax.op.subtract(x, base)), axes, keepdims=True))
    found = relax.op.add(relax.op.where(relax.op.equal(total, zero), least, relax.op.log(total)), base)
    return found if attrs.get("keepdims", 1) else relax.op.squeeze(bb.normalize(found), axes)


CONVERTERS: dict[str, Converter] = {
    "ArgMax": _place_of(relax.op.argmax),
    "ArgMin": _place_of(relax.op.argmin),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Hardmax": _hardmax,
    "Log": _log,
    "ReduceLogSumExp": _log_sum_exp,
    "Sign": _sign,
}
