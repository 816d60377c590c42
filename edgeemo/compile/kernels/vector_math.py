"""Transcendental functions as polynomials, on float32x4 (kernels) and on scalar TIR expressions (stock operators).

libm would be one scalar call per element. Coefficients are fitted here, in float64 at import, and used in float32.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from functools import cache

import numpy as np

from edgeemo.compile.kernels.builder import Builder, Expr, kernel
from edgeemo.compile.kernels.interleave import InRegisters, OpStream, Reload
from edgeemo.targets.board import KernelTarget

LOG2E = math.log2(math.e)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # Cody-Waite split, Cephes expf
EXP_MIN, EXP_MAX = -87.0, 88.0
GELU_RANGE = 4.0  # beyond it Phi(x) is 0 or 1 to 3e-5


def fit_polynomial(function, low: float, high: float, degree: int) -> list[float]:  # type: ignore[no-untyped-def]
    """Near-minimax polynomial (Chebyshev interpolation), coefficients from x^0 up."""
    cheb = np.polynomial.chebyshev.Chebyshev.interpolate(function, degree, domain=[low, high])
    return [float(c) for c in cheb.convert(kind=np.polynomial.Polynomial).coef]


def fit_weighted(function, weight, low: float, high: float, degree: int) -> list[float]:  # type: ignore[no-untyped-def]
    """Minimax polynomial of weight * error by Lawson's iteration (reweighted least squares), coefficients from x^0 up."""
    t = np.cos(np.linspace(0.0, math.pi, 2000))
    x = low + (high - low) * (t + 1) / 2
    basis, target, scale = np.polynomial.chebyshev.chebvander(t, degree), function(x), weight(x)
    share = np.full(x.size, 1.0 / x.size)
    for _ in range(100):
        root = np.sqrt(share) * scale
        solution = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        share *= np.abs((basis @ solution - target) * scale)
        share /= share.sum()
    cheb = np.polynomial.chebyshev.Chebyshev(solution, domain=[low, high])
    return [float(c) for c in cheb.convert(kind=np.polynomial.Polynomial).coef]


def _half_erf_over_x(square: np.ndarray) -> np.ndarray:
    """(Phi(x) - 1/2) / x as a function of x^2."""
    x = np.sqrt(np.maximum(square, 1e-12))
    return np.array([0.5 * math.erf(v / math.sqrt(2.0)) / v for v in x.ravel()]).reshape(x.shape)


# exp(r) on |r| <= ln2 / 2: relative error 1e-8 before rounding.
EXP_COEFFICIENTS = fit_polynomial(np.exp, -0.5 * math.log(2), 0.5 * math.log(2), 6)
# (Phi(x) - 1/2) / x in x^2 on [0, 16]: |error of gelu(x)| <= 7e-5 within the range.
PHI_COEFFICIENTS = fit_polynomial(_half_erf_over_x, 0.0, GELU_RANGE**2, 8)
# For an int8 result the error of gelu(x) = x^2 times this one's spread evenly. Of degree 6 it is 1.8e-4, a few hundredths of an
# int8 step, and yet four times as many activations fall on the other side of an edge as in ONNX Runtime: with a model that is
# sure of itself that was 0.043 of one probability after 26 steps. Of degree 8 it is 0.014.
PHI_COEFFICIENTS_INT8 = fit_weighted(_half_erf_over_x, lambda square: square, 0.0, GELU_RANGE**2, 8)


# erfc(z) / 2 = t (a1 + t (a2 + ...)) e^(-z^2) with t = 1 / (1 + ERFC_SLOPE z), z >= 0, to 0.75e-7 (Abramowitz and Stegun 7.1.26).
ERFC_SLOPE = 0.3275911
HALF_ERFC = [0.5 * a for a in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)]
ERFC_RANGE = 13.0  # of |x|, beyond which e^(-x^2 / 2) would not be a normal float


def horner(b: Builder, coefficients: Sequence[float], x: Reload, spill: InRegisters) -> OpStream:
    """Polynomial with coefficients from x^0 up at a float32x4."""
    value = spill.constant(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        operands = x(), spill.summand(c)
        yield None
        value = yield b.bind(b.fma(value, *operands))
    return value


def estrin(b: Builder, coefficients: Sequence[float], x: Expr) -> Expr:
    """The polynomial of ``horner`` as a tree: more products, a third of the latency, for places with few values in flight."""
    terms: list[Expr] = [
        b.bind(b.fma(x, b.splat(coefficients[i + 1]), b.splat(coefficients[i])))
        if i + 1 < len(coefficients)
        else b.splat(coefficients[i])
        for i in range(0, len(coefficients), 2)
    ]
    power = x
    while len(terms) > 1:
        power = b.bind(power * power)
        terms = [
            b.bind(b.fma(terms[i + 1], power, terms[i])) if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)
        ]
    return terms[0]


def exp4(b: Builder, x: Expr) -> Expr:
    """e^x of a float32x4: x = n ln2 + r, e^r by polynomial, 2^n by adding n to the exponent. Relative error 1.2e-7."""
    from tvm.script.ir_builder import tirx as T

    x = b.bind(b.minimum(b.maximum(x, b.splat(EXP_MIN)), b.splat(EXP_MAX)))
    n = b.bind(b.intrinsic("float32x4", "llvm.roundeven.v4f32", x * b.splat(LOG2E)))
    r = b.bind(b.fma(n, b.splat(-LN2_HIGH), x))
    r = b.bind(b.fma(n, b.splat(-LN2_LOW), r))
    p = estrin(b, EXP_COEFFICIENTS, r)
    exponent = (b.cast(n, "int32x4") + T.Broadcast(T.int32(127), 4)) << T.Broadcast(T.int32(23), 4)
    return b.bind(p * T.reinterpret("float32x4", exponent))


def gelu4(b: Builder, x: Expr, factor: Reload | None, spill: InRegisters) -> OpStream:
    """x Phi(x) of a float32x4, with Phi clamped at both ends (Hendrycks & Gimpel 2016, the erf form).

    With ``factor`` the value to quantize: factor times that, by a polynomial whose error is spread for it.
    """
    whole = spill.store(b.bind(x))
    least = spill.constant(-GELU_RANGE)
    yield None
    c = yield b.bind(b.maximum(x, least))
    most = spill.constant(GELU_RANGE)
    yield None
    c = yield b.bind(b.minimum(c, most))
    clamped = spill.store(c)
    yield None
    square = b.bind(c * c)
    coefficients = PHI_COEFFICIENTS if factor is None else PHI_COEFFICIENTS_INT8
    phi = yield from horner(b, coefficients, spill.store(square), spill)
    operands = clamped(), spill.summand(0.5)
    yield None
    phi = yield b.bind(b.fma(phi, *operands))
    x = whole()
    yield None
    return (yield from _times(b, b.bind(x * phi), factor))


def exact_gelu4(b: Builder, x: Expr, spill: InRegisters) -> OpStream:
    """x Phi(x) of a float32x4 to 1e-6: max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, erfc as HALF_ERFC has it."""
    whole, minus = spill.store(b.bind(x)), spill.constant(-1.0)
    yield None
    size = yield b.bind(x * minus)
    size = yield b.bind(b.maximum(whole(), size))
    most = spill.constant(ERFC_RANGE)
    yield None
    near = spill.store((yield b.bind(b.minimum(size, most))))
    operands = near(), spill.constant(ERFC_SLOPE / math.sqrt(2)), spill.summand(1.0)
    yield None
    t = yield from reciprocal4(b, b.bind(b.fma(operands[0], operands[1], operands[2])), spill)
    kept = spill.store(t)
    tail = yield from horner(b, HALF_ERFC, kept, spill)
    tail = spill.store((yield b.bind(tail * kept())))
    a, half = near(), spill.constant(0.5)
    yield None
    a = yield b.bind(a * a)
    p, power = yield from _exp_of_minus(b, b.bind(a * half), spill)
    tail = spill.store((yield b.bind(b.bind(p * power) * tail())))
    minus = spill.constant(-1.0)
    below = yield b.bind(tail() * near())
    below = yield b.bind(below * minus)
    x, zero = whole(), spill.constant(0.0)
    yield None
    above = yield b.bind(b.maximum(x, zero))
    return b.bind(above + below)


def _exp_of_minus(b: Builder, x: Expr, spill: InRegisters) -> Generator[Expr | None, Expr, tuple[Expr, Expr]]:
    """e^-x of a float32x4 in [-EXP_MAX, -EXP_MIN] as two factors, e^r by polynomial and 2^n."""
    from tvm.script.ir_builder import tirx as T

    clamped, turn = spill.store(x), spill.constant(-LOG2E)
    yield None
    n = yield b.bind(x * turn)
    n = yield b.bind(b.intrinsic("float32x4", "llvm.roundeven.v4f32", n))  # e^-x = 2^n e^r
    exponent = spill.store(n)
    operands = spill.constant(-LN2_HIGH), clamped()
    yield None
    r = yield b.bind(b.fma(n, operands[0], b.bind(operands[1] * b.splat(-1.0))))
    operands = exponent(), spill.constant(-LN2_LOW)
    yield None
    r = b.bind(b.fma(*operands, r))
    p = yield from horner(b, EXP_COEFFICIENTS, spill.store(r), spill)
    n = exponent()
    yield None
    power = yield T.reinterpret("float32x4", b.bind(b.cast(n, "int32x4") + T.Broadcast(T.int32(127), 4)))
    power = yield T.reinterpret("float32x4", b.bind(T.reinterpret("int32x4", power) << T.Broadcast(T.int32(23), 4)))
    return p, power


def silu4(b: Builder, x: Expr, factor: Reload | None, spill: InRegisters) -> OpStream:
    """x / (1 + e^-x) of a float32x4 (Elfwing et al. 2018); with ``factor``, that times it."""
    whole = spill.store(b.bind(x))
    least = spill.constant(-EXP_MAX)
    yield None
    x = yield b.bind(b.maximum(x, least))
    most = spill.constant(-EXP_MIN)
    yield None
    x = yield b.bind(b.minimum(x, most))
    p, power = yield from _exp_of_minus(b, x, spill)
    one = spill.summand(1.0)
    yield None
    gate = yield b.bind(b.fma(p, power, one))
    gate = yield from reciprocal4(b, gate, spill)
    x = whole()
    yield None
    return (yield from _times(b, b.bind(x * gate), factor))


def reciprocal4(b: Builder, x: Expr, spill: InRegisters) -> OpStream:
    """1 / x of a float32x4: an estimate and two steps of Newton's method on NEON, a division elsewhere."""
    if not b.neon:
        return b.bind(b.splat(1.0) / x)
    kept = spill.store(x)
    estimate = yield b.bind(b.intrinsic("float32x4", "llvm.aarch64.neon.frecpe.v4f32", x))
    for _ in range(2):
        before = spill.store(estimate)
        x = kept()
        yield None
        step = yield b.bind(b.intrinsic("float32x4", "llvm.aarch64.neon.frecps.v4f32", x, estimate))
        estimate = before()
        yield None
        estimate = yield b.bind(estimate * step)
    return estimate


def hard_swish4(b: Builder, x: Expr, factor: Reload | None, spill: InRegisters) -> OpStream:
    """x clip(x / 6 + 1 / 2, 0, 1) of a float32x4 (Howard et al. 2019); with ``factor``, that times it."""
    whole = spill.store(b.bind(x))
    sixth, half = spill.constant(1 / 6), spill.summand(0.5)
    yield None
    gate = yield b.bind(b.fma(x, sixth, half))
    gate = yield b.bind(b.maximum(gate, b.splat(0.0)))
    one = spill.constant(1.0)
    yield None
    gate = yield b.bind(b.minimum(gate, one))
    x = whole()
    yield None
    return (yield from _times(b, b.bind(x * gate), factor))


def relu6_4(b: Builder, x: Expr, factor: Reload | None, spill: InRegisters) -> OpStream:
    """min(max(x, 0), 6) of a float32x4; with ``factor``, that times it."""
    x = yield b.bind(b.maximum(x, b.splat(0.0)))
    six = spill.constant(6.0)
    yield None
    return (yield from _times(b, b.bind(b.minimum(x, six)), factor))


def _times(b: Builder, x: Expr, factor: Reload | None) -> OpStream:
    if factor is None:
        return x
    x = yield x
    scale = factor()
    yield None
    return b.bind(x * scale)


FUNCTIONS = {"gelu": gelu4, "silu": silu4, "hard_swish": hard_swish4, "relu6": relu6_4}
EXACT = {"gelu": exact_gelu4}  # in place of those above where what comes in and goes out is float
ACTIVATIONS = ("relu", *FUNCTIONS)


def activation_ops(b: Builder, name: str, x: Expr, factor: Reload | None, spill: InRegisters, kind: str) -> OpStream:
    """An activation of ``ACTIVATIONS``, but for relu, which is one operation. ``kind``: the product's whose sums it is of; behind
    int8 weights a polynomial's error is a hundredth of theirs, behind float ones a network may make much of it."""
    if factor is None and kind != "s8" and name in EXACT:
        return EXACT[name](b, x, spill)
    return FUNCTIONS[name](b, x, factor, spill)


class _Recorder(InRegisters):
    """Notes the constants that operations load."""

    def __init__(self, b: Builder) -> None:
        super().__init__(b)
        self.constants: list[float] = []

    def constant(self, value: float) -> Expr:
        self.constants.append(value)
        return super().constant(value)


@cache
def activation_cost(name: str, quantized: bool) -> tuple[int, tuple[float, ...]]:
    """Operations of an activation in a deferred epilogue, and the constants that it loads, by a dry run for NEON: a new
    activation needs no table. ``quantized``: with a factor to the output's units. None of either for those that are one
    instruction."""
    if name not in FUNCTIONS:
        return 0, ()
    with kernel("dry_run", KernelTarget(True, (), {}, 0, 0)) as (b, _):
        recorder = _Recorder(b)
        factor = recorder.store(b.splat(1.0)) if quantized else None
        stream, value, count = FUNCTIONS[name](b, b.bind(b.splat(0.0)), factor, recorder), None, 0
        while True:
            try:
                value = stream.send(value)
            except StopIteration:
                return count, tuple(recorder.constants)
            count += 1
