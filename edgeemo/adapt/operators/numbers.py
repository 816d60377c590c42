"""Operators over single numbers, as those that the compiler has."""

from __future__ import annotations

import numpy as np
import onnx

from edgeemo.adapt.operators.context import Context
from edgeemo.onnxlib.graph import Maker, attributes

MAX_POWER = 16
ATANH_TERMS = 7  # up to 1/3: error (1/9)^7 / 15


def power(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """By a constant whole number as products, by a half as a root; the exponent of the base's kind."""
    exponent, kind = context.constant(node, 1), context.kind(node.input[0])
    dtype, base, output = context.dtype(node.input[0]), node.input[0], node.output[0]
    if exponent is not None and exponent.size == 1 and exponent.ndim <= len(context.shape(base)):
        value = float(exponent.reshape(-1)[0])
        if value == 0.5 and dtype.kind == "f":
            make.op("Sqrt", base, output=output)
            return True
        if value == int(value) and 1 <= abs(value) <= MAX_POWER and (value > 0 or dtype.kind == "f"):
            _whole_power(base, int(value), make, output)
            return True
    if context.kind(node.input[1]) == kind:
        return False
    if exponent is not None and exponent.dtype.kind == "f" and dtype.kind != "f":
        raised = make.op("Pow", make.op("Cast", base, to=onnx.TensorProto.FLOAT), make.constant(exponent, np.float32))
        make.op("Cast", raised, to=kind, output=output)
        return True
    make.op("Pow", base, make.op("Cast", node.input[1], to=kind), output=output)
    return True


def _whole_power(base: str, exponent: int, make: Maker, output: str) -> None:
    """By squaring."""
    left, square, result = abs(exponent), base, ""
    while left:
        if left & 1:
            result = make.op("Mul", result, square) if result else square
        left >>= 1
        if left:
            square = make.op("Mul", square, square)
    make.op("Reciprocal" if exponent < 0 else "Identity", result, output=output)


def modulo(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """The remainder with the dividend's sign (``fmod``): a - trunc(a / b) b."""
    dtype, (a, b) = context.dtype(node.input[0]), node.input
    if not attributes(node).get("fmod", 0):
        if dtype.kind == "f":
            raise context.refusal(node, "of floats with the divisor's sign; fmod=1 is what is there for floats")
        return False
    if dtype.kind in "u":
        make.op("Mod", a, b, output=node.output[0])
        return True
    if dtype.kind == "i":  # ONNX's integer division truncates
        make.op("Sub", a, make.op("Mul", make.op("Div", a, b), b), output=node.output[0])
        return True
    # Of magnitudes a quotient that is rounded up gives a negative rest, by one divisor less than it should be.
    x, y = make.op("Abs", a), make.op("Abs", b)
    rest = make.op("Sub", x, make.op("Mul", make.op("Floor", make.op("Div", x, y)), y))
    zero = make.constant(np.zeros((), dtype))
    rest = make.op("Where", make.op("Less", rest, zero), make.op("Add", rest, y), rest)
    rest = make.op("Where", make.op("Less", rest, y), rest, make.op("Sub", rest, y))
    make.op("Where", make.op("Less", a, zero), make.op("Neg", rest), rest, output=node.output[0])
    return True


def is_infinite(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    options, dtype = attributes(node), context.dtype(node.input[0])
    up, down = (make.op("Equal", node.input[0], make.constant(np.asarray(sign * np.inf, dtype))) for sign in (1, -1))
    both = [s for s, n in ((up, "detect_positive"), (down, "detect_negative")) if options.get(n, 1)]
    if not both:
        none = make.constant(np.zeros((), dtype=bool), bool)
        make.op("And", up, none, output=node.output[0])
    elif len(both) == 1:
        make.op("Identity", both[0], output=node.output[0])
    else:
        make.op("Or", *both, output=node.output[0])
    return True


def bit_shift(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """Products or quotients with powers of two: unsigned, and shifts of all bits and more give zero."""
    dtype, kind = context.dtype(node.input[0]), context.kind(node.input[0])
    if dtype.kind != "u":
        raise context.refusal(node, "of signed numbers; cast to unsigned ones first")
    bits = dtype.itemsize * 8
    table = make.constant(np.array([1 << i for i in range(bits)], dtype=dtype), dtype)
    shift = make.op("Cast", node.input[1], to=onnx.TensorProto.INT64)
    factor = make.op("Gather", table, make.op("Min", shift, make.constant(np.asarray(bits - 1))), axis=0)
    wide = {8: onnx.TensorProto.UINT32, 16: onnx.TensorProto.UINT32}.get(bits, kind)
    a, b = (make.op("Cast", v, to=wide) for v in (node.input[0], factor))
    moved = make.op("Cast", make.op("Mul" if attributes(node)["direction"] == b"LEFT" else "Div", a, b), to=kind)
    fits = make.op("Less", shift, make.constant(np.asarray(bits)))
    make.op("Where", fits, moved, make.constant(np.zeros((), dtype)), output=node.output[0])
    return True


def mish(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """x tanh(log(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2): exact for small results, too."""
    dtype = context.dtype(node.input[0])
    most, two = make.constant(np.asarray(20, dtype), dtype), make.constant(np.asarray(2, dtype), dtype)  # beyond 20 it is x
    power = make.op("Exp", make.op("Min", node.input[0], most))
    n = make.op("Mul", power, make.op("Add", power, two))
    make.op("Mul", node.input[0], make.op("Div", n, make.op("Add", n, two)), output=node.output[0])
    return True


def softplus(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """max(x, 0) + log(1 + u), u = e^-|x|, with log(1 + u) = 2 atanh(u / (u + 2)) as a series, which is right for small u, too.
    Kahan's u log(w) / (w - 1) of w = 1 + u would be, but a compiler makes u of (1 + u) - 1."""
    dtype, x = context.dtype(node.input[0]), node.input[0]

    def number(value: float) -> str:
        return make.constant(np.asarray(value, dtype), dtype)

    u = make.op("Exp", make.op("Neg", make.op("Abs", x)))
    s = make.op("Div", u, make.op("Add", u, number(2)))
    square = make.op("Mul", s, s)
    series = number(2 / (2 * ATANH_TERMS - 1))
    for n in range(ATANH_TERMS - 2, -1, -1):
        series = make.op("Add", make.op("Mul", series, square), number(2 / (2 * n + 1)))
    make.op("Add", make.op("Max", x, number(0)), make.op("Mul", s, series), output=node.output[0])
    return True


def layer_normalization(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """With its mean and deviation as outputs: those by themselves."""
    wanted = list(node.output[1:])
    rank = len(context.shape(node.input[0]))
    if not any(wanted) or not rank:
        return False
    options = attributes(node)
    axes = make.constant(range(options.get("axis", -1) % rank, rank), np.int64)
    mean = make.op("ReduceMean", node.input[0], axes, keepdims=1)
    if wanted[0]:
        make.op("Identity", mean, output=wanted[0])
    if len(wanted) > 1 and wanted[1]:
        off = make.op("Sub", node.input[0], mean)
        variance = make.op("ReduceMean", make.op("Mul", off, off), axes, keepdims=1)
        epsilon = make.constant(np.asarray(options.get("epsilon", 1e-5), context.dtype(node.input[0])))
        make.op("Reciprocal", make.op("Sqrt", make.op("Add", variance, epsilon)), output=wanted[1])
    make.op("LayerNormalization", *node.input, output=node.output[0], **options)
    return True


def cast_like(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    kind = context.kind(node.input[1])
    if not kind:
        return False
    make.op("Cast", node.input[0], to=kind, output=node.output[0])
    return True


def lp_normalization(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    options = attributes(node)
    axis = make.constant([options.get("axis", -1)])
    norm = make.op("ReduceL1" if options.get("p", 2) == 1 else "ReduceL2", node.input[0], axis, keepdims=1)
    zero, one = (make.constant(np.asarray(v, context.dtype(node.input[0]))) for v in (0, 1))
    whole = make.op("Where", make.op("Equal", norm, zero), one, norm)
    make.op("Div", node.input[0], whole, output=node.output[0])
    return True


def dropout(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """Nothing at inference: the mask is all true."""
    training = context.constant(node, 2)
    if context.has(node, 2) and (training is None or training.any()):
        raise context.refusal(node, "is in training mode, which draws random numbers; export it for inference")
    if len(node.output) > 1 and node.output[1]:
        never = make.op("And", make.op("Equal", node.input[0], node.input[0]), make.constant(np.zeros((), bool), bool))
        make.op("Not", never, output=node.output[1])
    make.op("Identity", node.input[0], output=node.output[0])
    return True


LOWERINGS = {
    "Pow": power, "Mod": modulo, "IsInf": is_infinite, "BitShift": bit_shift, "CastLike": cast_like,
    "Dropout": dropout, "Mish": mish, "Softplus": softplus, "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
}  # fmt: skip
