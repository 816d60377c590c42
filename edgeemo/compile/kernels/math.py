"""Transcendental functions as polynomials, on float32x4 (kernels) and on scalar TIR expressions (stock operators).

libm would be one scalar call per element. Coefficients are fitted here, in float64 at import, and used in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeemo.compile.kernels.builder import Builder, Expr

LOG2E = math.log2(math.e)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # Cody-Waite split, Cephes expf
EXP_MIN, EXP_MAX = -87.0, 88.0
GELU_RANGE = 4.0  # beyond it Phi(x) is 0 or 1 to 3e-5


def fit_polynomial(function, low: float, high: float, degree: int) -> list[float]:  # type: ignore[no-untyped-def]
    """Near-minimax polynomial (Chebyshev interpolation), coefficients from x^0 up."""
    cheb = np.polynomial.chebyshev.Chebyshev.interpolate(function, degree, domain=[low, high])
    return [float(c) for c in cheb.convert(kind=np.polynomial.Polynomial).coef]


def _half_erf_over_x(square: np.ndarray) -> np.ndarray:
    """(Phi(x) - 1/2) / x as a function of x^2."""
    x = np.sqrt(np.maximum(square, 1e-12))
    return np.array([0.5 * math.erf(v / math.sqrt(2.0)) / v for v in x.ravel()]).reshape(x.shape)


# exp(r) on |r| <= ln2 / 2: relative error 1e-8 before rounding.
EXP_COEFFICIENTS = fit_polynomial(np.exp, -0.5 * math.log(2), 0.5 * math.log(2), 6)
# (Phi(x) - 1/2) / x in x^2 on [0, 16]: |error of gelu(x)| <= 7e-5 within the range.
PHI_COEFFICIENTS = fit_polynomial(_half_erf_over_x, 0.0, GELU_RANGE**2, 8)


def horner(b: Builder, coefficients: Sequence[float], x: Expr) -> Expr:
    """Polynomial with coefficients from x^0 up at a float32x4."""
    value = b.splat(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = b.bind(b.fma(value, x, b.splat(c)))
    return value


def exp4(b: Builder, x: Expr) -> Expr:
    """e^x of a float32x4: x = n ln2 + r, e^r by polynomial, 2^n by adding n to the exponent. Relative error 1.2e-7."""
    from tvm.script.ir_builder import tirx as T

    x = b.bind(b.minimum(b.maximum(x, b.splat(EXP_MIN)), b.splat(EXP_MAX)))
    n = b.bind(b.intrinsic("float32x4", "llvm.roundeven.v4f32", x * b.splat(LOG2E)))
    r = b.bind(b.fma(n, b.splat(-LN2_HIGH), x))
    r = b.bind(b.fma(n, b.splat(-LN2_LOW), r))
    p = horner(b, EXP_COEFFICIENTS, r)
    exponent = (b.cast(n, "int32x4") + T.Broadcast(T.int32(127), 4)) << T.Broadcast(T.int32(23), 4)
    return b.bind(p * T.reinterpret("float32x4", exponent))


def gelu4(b: Builder, x: Expr) -> Expr:
    """x Phi(x) of a float32x4, with Phi clamped outside [-4, 4] (Hendrycks & Gimpel 2016, the erf form)."""
    x = b.bind(x)
    c = b.bind(b.minimum(b.maximum(x, b.splat(-GELU_RANGE)), b.splat(GELU_RANGE)))
    p = horner(b, PHI_COEFFICIENTS, b.bind(c * c))
    return b.bind(x * b.fma(p, c, b.splat(0.5)))
