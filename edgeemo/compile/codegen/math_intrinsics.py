"""exp, log, erf, tanh, sigmoid, powers and trigonometry in stock operators -> polynomials. A call to libm is scalar, and one more
undefined symbol."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from tvm import tirx

from edgeemo.compile.kernels.vector_math import (
    ERFC_SLOPE,
    EXP_COEFFICIENTS,
    EXP_MAX,
    EXP_MIN,
    HALF_ERFC,
    LN2_HIGH,
    LN2_LOW,
    LOG2E,
    fit_polynomial,
)

Expr = Any
SQRT_HALF = math.sqrt(0.5)
# log1p(f) / f on f in [sqrt(1/2) - 1, sqrt(2) - 1]: relative error 2e-7.
LOG_COEFFICIENTS = fit_polynomial(lambda f: np.log1p(f) / f, SQRT_HALF - 1.0, math.sqrt(2.0) - 1.0, 9)

# erf(x) / x in x^2 on [0, 1]: relative error 1e-8.
ERF_COEFFICIENTS = fit_polynomial(lambda y: np.vectorize(math.erf)(np.sqrt(y)) / np.sqrt(y), 1e-12, 1.0, 7)


def _f(value: float) -> Expr:
    return tirx.FloatImm("float32", value)


def _type(name: str, like: Expr) -> str:
    """That type with the lanes of ``like``."""
    _, of, lanes = str(like.ty.dtype).partition("x")
    return name + of + lanes


def _polynomial(coefficients: list[float], x: Expr) -> Expr:
    """Coefficients from x^0 up, as a tree (Estrin): such loops wait for latency, a third of Horner's."""
    terms: list[Expr] = [_f(c) for c in coefficients]
    while len(terms) > 1:
        terms = [terms[i] + terms[i + 1] * x if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
        x = x * x
    return terms[0]


def _clamp(x: Expr, low: float, high: float) -> Expr:
    lanes = int(_type("", x).removeprefix("x") or 1)
    least, most = (tirx.Broadcast(_f(v), lanes) if lanes > 1 else _f(v) for v in (low, high))
    return tirx.Max(tirx.Min(x, most), least)


def exp(x: Expr) -> Expr:
    x = _clamp(x, EXP_MIN, EXP_MAX)
    n = tirx.call_llvm_pure_intrin(_type("float32", x), "llvm.roundeven.f32", x * _f(LOG2E))
    r = x - n * _f(LN2_HIGH) - n * _f(LN2_LOW)
    power = (tirx.Cast(_type("int32", x), n) + tirx.IntImm("int32", 127)) << tirx.IntImm("int32", 23)
    return _polynomial(EXP_COEFFICIENTS, r) * tirx.reinterpret(_type("float32", x), power)


def log(x: Expr) -> Expr:
    """Natural logarithm of a positive, normal x = 2^e m with m in [sqrt(1/2), sqrt(2)): e ln2 + log1p(m - 1)."""
    bits = tirx.reinterpret(_type("int32", x), x)
    # Subtracting the bits of sqrt(1/2) puts the exponent's step at that mantissa instead of at 1.
    e = (bits - tirx.IntImm("int32", 0x3F3504F3)) >> tirx.IntImm("int32", 23)
    f = tirx.reinterpret(_type("float32", x), bits - (e << tirx.IntImm("int32", 23))) - _f(1.0)
    return tirx.Cast(_type("float32", x), e) * _f(math.log(2.0)) + f * _polynomial(LOG_COEFFICIENTS, f)


def erf(x: Expr) -> Expr:
    """To a relative error of 2e-7: a polynomial below 1, 1 - erfc(|x|) above."""
    size = _absolute(x)
    t = _f(1.0) / (_f(1.0) + _f(ERFC_SLOPE) * size)
    far = _f(1.0) - _f(2.0) * t * _polynomial(HALF_ERFC, t) * exp(_f(0.0) - size * size)
    near = size * _polynomial(ERF_COEFFICIENTS, _clamp(x * x, 0.0, 1.0))
    found = _select(size < _like(1.0, x), near, far)
    return _select(x < _like(0.0, x), _f(0.0) - found, found)


def sigmoid(x: Expr) -> Expr:
    return _f(1.0) / (_f(1.0) + exp(_f(0.0) - x))


def tanh(x: Expr) -> Expr:
    return _f(1.0) - _f(2.0) / (exp(x * _f(2.0)) + _f(1.0))


def _select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    return tirx.Select(condition, yes, no)


def _like(value: float, x: Expr) -> Expr:
    lanes = int(_type("", x).removeprefix("x") or 1)
    return tirx.Broadcast(_f(value), lanes) if lanes > 1 else _f(value)


def _round(x: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(_type("float32", x), "llvm.roundeven.f32", x)


def _absolute(x: Expr) -> Expr:
    return tirx.Max(x, _f(0.0) - x)


def whole_log(x: Expr) -> Expr:
    """log of any number: minus infinite of zero, not a number below, infinite of infinite."""
    infinite, none = _like(math.inf, x), _like(math.nan, x)
    found = _select(x > _like(0.0, x), log(x), _select(tirx.EQ(x, _like(0.0, x)), _f(0.0) - infinite, none))
    return _select(x > _like(3.4e38, x), infinite, found)


def exp_to_infinity(x: Expr) -> Expr:
    """exp of any number: infinite where float32 ends, and zero, by a power of two in two factors."""
    x = _clamp(x, -104.0, 89.0)
    n = tirx.call_llvm_pure_intrin(_type("float32", x), "llvm.roundeven.f32", x * _f(LOG2E))
    r = x - n * _f(LN2_HIGH) - n * _f(LN2_LOW)
    whole = tirx.Cast(_type("int32", x), n)
    half = whole >> tirx.IntImm("int32", 1)
    found = _polynomial(EXP_COEFFICIENTS, r)
    for part in (half, whole - half):
        found = found * tirx.reinterpret(_type("float32", x), (part + tirx.IntImm("int32", 127)) << tirx.IntImm("int32", 23))
    return found


HALF_PI = (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8)  # of pi / 2, each with bits to spare for a product
SIN_COEFFICIENTS = fit_polynomial(lambda y: np.sinc(np.sqrt(y) / np.pi), 0.0, (math.pi / 4) ** 2, 4)
COS_COEFFICIENTS = fit_polynomial(lambda y: np.cos(np.sqrt(y)), 0.0, (math.pi / 4) ** 2, 4)
ATAN_COEFFICIENTS = fit_polynomial(lambda y: np.arctan(np.sqrt(y)) / np.sqrt(y), 1e-12, 1.0, 11)
SINH_COEFFICIENTS = [1.0, 1 / 6, 1 / 120, 1 / 5040, 1 / 362880]  # below 1


def _sine(x: Expr, quarters: int) -> Expr:
    """sin(x + quarters pi / 2): x = k pi / 2 + r, with k's last two bits saying which of sine and cosine of r, and its sign."""
    k = _round(x * _f(2 / math.pi))
    r = x
    for part in HALF_PI:
        r = r - k * _f(part)
    square = r * r
    lanes = int(_type("", x).removeprefix("x") or 1)
    turn, one, two, none = (
        tirx.Broadcast(tirx.IntImm("int32", v), lanes) if lanes > 1 else tirx.IntImm("int32", v) for v in (quarters, 1, 2, 0)
    )
    at = tirx.Cast(_type("int32", x), k) + turn
    odd, negative = tirx.EQ(at & one, none), tirx.EQ(at & two, none)
    found = _select(odd, r * _polynomial(SIN_COEFFICIENTS, square), _polynomial(COS_COEFFICIENTS, square))
    return _select(negative, found, _f(0.0) - found)


def sin(x: Expr) -> Expr:
    return _sine(x, 0)


def cos(x: Expr) -> Expr:
    return _sine(x, 1)


def tan(x: Expr) -> Expr:
    return sin(x) / cos(x)


def atan(x: Expr) -> Expr:
    """Beyond 1 by the reciprocal's."""
    size = _absolute(x)
    beyond = size > _like(1.0, x)
    y = _select(beyond, _f(1.0) / size, size)
    near = y * _polynomial(ATAN_COEFFICIENTS, y * y)
    found = _select(beyond, _f(math.pi / 2) - near, near)
    return _select(x < _like(0.0, x), _f(0.0) - found, found)


def asin(x: Expr) -> Expr:
    return atan(x / tirx.sqrt((_f(1.0) - x) * (_f(1.0) + x)))


def acos(x: Expr) -> Expr:
    return _f(math.pi / 2) - asin(x)


def sinh(x: Expr) -> Expr:
    near = x * _polynomial(SINH_COEFFICIENTS, x * x)
    half = exp(_absolute(x) * _f(0.5))
    far = half * (half * _f(0.5)) - _f(0.5) / (half * half)
    return _select(_absolute(x) < _like(1.0, x), near, _select(x < _like(0.0, x), _f(0.0) - far, far))


def cosh(x: Expr) -> Expr:
    half = exp(_absolute(x) * _f(0.5))
    return half * (half * _f(0.5)) + _f(0.5) / (half * half)


def asinh(x: Expr) -> Expr:
    size = _absolute(x)
    found = whole_log(size + tirx.sqrt(size * size + _f(1.0)))
    return _select(x < _like(0.0, x), _f(0.0) - found, found)


def acosh(x: Expr) -> Expr:
    return whole_log(x + tirx.sqrt(x * x - _f(1.0)))


def atanh(x: Expr) -> Expr:
    return _f(0.5) * whole_log((_f(1.0) + x) / (_f(1.0) - x))


def power(x: Expr, y: Expr) -> Expr:
    """e^(y log |x|), with x's sign where y is odd; of a finite x below zero and y no whole number not a number."""
    size, zero, one, infinite = _absolute(x), _like(0.0, x), _like(1.0, x), _like(math.inf, x)
    half = y * _f(0.5)
    odd = tirx.NE(_round(half), half)
    raised = exp_to_infinity(y * whole_log(size))
    raised = _select(tirx.EQ(size, one), one, raised)  # to an infinite power, too
    none = _select(size > _like(3.4e38, x), raised, _like(math.nan, x))
    signed = _select(tirx.EQ(_round(y), y), _select(odd, _f(0.0) - raised, raised), none)
    inverse = _select(tirx.EQ(_round(y), y), _select(odd, one / x, infinite), infinite)  # of a zero, with its sign
    found = _select(tirx.EQ(size, zero), _select(y > zero, zero, inverse), _select(x < zero, signed, raised))
    return _select(tirx.EQ(y, zero), one, _select(tirx.EQ(y, one), x, found))


LOWERED: dict[str, Callable[..., Expr]] = {
    "tirx.exp": exp,
    "tirx.log": log,
    "tirx.erf": erf,
    "tirx.sigmoid": sigmoid,
    "tirx.tanh": tanh,
    "tirx.sin": sin,
    "tirx.cos": cos,
    "tirx.tan": tan,
    "tirx.atan": atan,
    "tirx.asin": asin,
    "tirx.acos": acos,
    "tirx.sinh": sinh,
    "tirx.cosh": cosh,
    "tirx.asinh": asinh,
    "tirx.acosh": acosh,
    "tirx.atanh": atanh,
    "tirx.pow": power,
}


# A call of any of them, as TVM prints it.
NESTED = re.compile(rf"\bT\.({'|'.join(name.partition('.')[2] for name in LOWERED)})\(")


def _once(lower: Callable[..., Expr], arguments: list[Expr]) -> Expr:
    """``lower(*arguments)``, with arguments that hold another of these functions as variables: a polynomial names its argument
    many times, and a chain of them (Pow of Abs of Cosh) would be code of exponential size."""
    bound = [tirx.Var(f"argument{i}", str(a.ty.dtype)) if NESTED.search(str(a)) else a for i, a in enumerate(arguments)]
    found = lower(*bound)
    for variable, argument in zip(bound, arguments, strict=True):
        found = found if variable is argument else tirx.Let(variable, argument, found)
    return found


@cache
def register() -> None:
    """Makes TVM's LowerIntrin use these on the llvm target. TVM refuses a second registration, hence the cache."""
    for name, polynomial in LOWERED.items():

        def rule(call: Any, polynomial: Callable[..., Expr] = polynomial) -> Any:
            of = str(call.ty.dtype).partition("x")[0]
            if of == "float32":
                return _once(polynomial, list(call.args))
            if of not in ("float64", "float16"):
                return call
            # To float32's precision, which is what a library call would be avoided for.
            narrow = [tirx.Cast(_type("float32", a), a) for a in call.args]
            return tirx.Cast(_type(of, call), _once(polynomial, narrow))

        tirx.op.register_intrin_lowering(name, "llvm", f=rule, level=99)
