"""exp, log, erf, tanh and sigmoid in stock operators -> polynomials. A call to libm is scalar, and one more undefined symbol."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from tvm import tirx

from edgeemo.compile.kernels.math import (
    EXP_COEFFICIENTS,
    EXP_MAX,
    EXP_MIN,
    GELU_RANGE,
    LN2_HIGH,
    LN2_LOW,
    LOG2E,
    PHI_COEFFICIENTS,
    fit_polynomial,
)

Expr = Any
SQRT_HALF = math.sqrt(0.5)
# log1p(f) / f on f in [sqrt(1/2) - 1, sqrt(2) - 1]: relative error 2e-7.
LOG_COEFFICIENTS = fit_polynomial(lambda f: np.log1p(f) / f, SQRT_HALF - 1.0, math.sqrt(2.0) - 1.0, 9)


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
    """2 Phi(x sqrt 2) - 1, with the polynomial of the GELU kernel."""
    y = _clamp(x * _f(math.sqrt(2.0)), -GELU_RANGE, GELU_RANGE)
    return _f(2.0) * y * _polynomial(PHI_COEFFICIENTS, y * y)


def sigmoid(x: Expr) -> Expr:
    return _f(1.0) / (_f(1.0) + exp(_f(0.0) - x))


def tanh(x: Expr) -> Expr:
    return _f(1.0) - _f(2.0) / (exp(x * _f(2.0)) + _f(1.0))


LOWERED: dict[str, Callable[[Expr], Expr]] = {
    "tirx.exp": exp,
    "tirx.log": log,
    "tirx.erf": erf,
    "tirx.sigmoid": sigmoid,
    "tirx.tanh": tanh,
}


@cache
def register() -> None:
    """Makes TVM's LowerIntrin use these on the llvm target. TVM refuses a second registration, hence the cache."""
    for name, polynomial in LOWERED.items():

        def rule(call: Any, polynomial: Callable[[Expr], Expr] = polynomial) -> Any:
            return polynomial(call.args[0]) if str(call.ty.dtype).partition("x")[0] == "float32" else call

        tirx.op.register_intrin_lowering(name, "llvm", f=rule, level=99)
