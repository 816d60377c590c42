"""NaN, infinities and numbers near zero in stock operators, as ONNX Runtime has them.

TVM's maximum and minimum take a NaN for the other operand, and polynomials clamp their argument, which takes one for a bound: a
graph that computes with the square root of a negative number would give plausible numbers where ONNX Runtime gives none.
"""

from __future__ import annotations

from collections.abc import Callable
from math import copysign, inf
from typing import Any

import numpy as np
import tvm
from tvm import ir, tirx
from tvm_ffi.structural import structural_map

from edgeemo.compile.codegen.math_intrinsics import LOWERED, exp_to_infinity, whole_log
from edgeemo.compile.kernels.vector_math import fit_polynomial

Expr = Any
LARGEST = float(np.finfo(np.float32).max)
TANH_NEAR = 0.6
# tanh(x) / x in x^2: relative error 1e-7. 1 - 2 / (e^2x + 1) has that of the 1 instead.
TANH_COEFFICIENTS = fit_polynomial(lambda y: np.tanh(np.sqrt(y)) / np.sqrt(y), 1e-12, TANH_NEAR**2, 5)
INTRINSICS = {tirx.Max: "llvm.maximum", tirx.Min: "llvm.minimum"}  # one instruction on AArch64, fmax and fmin
WIDTHS = {"float32": "f32", "float64": "f64"}


def keep(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """``func`` with NaN and infinities kept. Scalar: before its loops are vectorized."""
    rules = [
        (tirx.BufferStore, _from_infinity),
        (ir.Call, _function),
        (tirx.Max, _extreme),
        (tirx.Min, _extreme),
        (tirx.For, _serial),
    ]
    body = func.body
    for rule in rules:
        body = structural_map(body, rule)
    kept = tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)
    # What is read twice (the square of a cosine) has one variable in two places now; each gets its own.
    return tirx.transform.ConvertSSA()(tvm.IRModule({"main": kept}))["main"]


def _serial(loop: tirx.For) -> tirx.For:
    """TVM does not vectorize what asks for NaN, and makes such a loop serial; where a variable's value holds what it does not
    vectorize either (Round, a concatenation) it fails at that."""
    if loop.kind != tirx.ForKind.VECTORIZED or "T.Let(" not in str(loop.body):
        return loop
    return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)


def _from_infinity(store: tirx.BufferStore) -> tirx.BufferStore:
    """TVM begins a largest value with the smallest finite number: of a row that is all minus infinite, as a mask of everything
    makes it, that is the wrong result."""
    value = store.value
    if not isinstance(value, tirx.FloatImm) or abs(value.value) != LARGEST:
        return store
    return tirx.BufferStore(store.buffer, tirx.FloatImm(str(value.ty.dtype), copysign(inf, value.value)), store.indices)


def _extreme(value: Expr) -> Expr:
    width = WIDTHS.get(str(value.ty.dtype))
    if width is None:
        return value
    return tirx.call_llvm_pure_intrin(str(value.ty.dtype), f"{INTRINSICS[type(value)]}.{width}", value.a, value.b)


def _function(call: ir.Call) -> Expr:
    name = getattr(call.op, "name", "")
    if name not in LOWERED or not str(call.ty.dtype).startswith("float"):
        return call
    if name == "tirx.pow":
        return _power(call)
    argument = call.args[0]
    x = argument if isinstance(argument, (tirx.Var, ir.TensorLoad)) else tirx.Var("number", str(argument.ty.dtype))
    whole = WHOLE.get(name) if str(call.ty.dtype) == "float32" else None
    found = whole(x) if whole else ir.Call(call.op, [x], ret_ty=call.ty)
    found = tirx.Select(tirx.isnan(x), x, found)
    return found if x is argument else tirx.Let(x, argument, found)


def _power(call: ir.Call) -> Expr:
    """A power that keeps NaN, but 1 ** NaN and NaN ** 0 are 1 (C, Annex F)."""
    dtype = str(call.ty.dtype)
    x, y = (tirx.Var(name, dtype) for name in ("base", "exponent"))
    zero, one = (tirx.FloatImm(dtype, value) for value in (0.0, 1.0))
    found: Expr = ir.Call(call.op, [x, y], ret_ty=call.ty)
    for value, other, exception in ((x, y, zero), (y, x, one)):  # by equality: TVM takes NaN for equal where it asks for unequal
        found = tirx.Select(tirx.isnan(value), tirx.Select(tirx.EQ(other, exception), one, value), found)
    return tirx.Let(x, call.args[0], tirx.Let(y, call.args[1], found))


def _tanh(x: Expr) -> Expr:
    square = x * x
    near: Expr = tirx.FloatImm("float32", TANH_COEFFICIENTS[-1])
    for coefficient in TANH_COEFFICIENTS[-2::-1]:
        near = near * square + tirx.FloatImm("float32", coefficient)
    size = tirx.Max(x, tirx.FloatImm("float32", 0.0) - x)
    return tirx.Select(size < tirx.FloatImm("float32", TANH_NEAR), near * x, tirx.tanh(x))


WHOLE: dict[str, Callable[[Expr], Expr]] = {"tirx.exp": exp_to_infinity, "tirx.log": whole_log, "tirx.tanh": _tanh}
