"""Operators that random graphs are made of, each with random attributes, on shapes that it can work on."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from tests.graphs import graph

UNARY = (
    "Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Erf", "Softplus", "Softsign", "Elu", "Selu", "LeakyRelu", "HardSigmoid",
    "HardSwish", "Sin", "Cos", "Atan", "Sinh", "Cosh", "Floor", "Ceil", "Round", "Sign", "Exp", "Mish", "Gelu", "Celu",
    "ThresholdedRelu", "Identity", "Asinh", "Reciprocal", "Sqrt", "Log",
)  # fmt: skip
ORDERING = ("MaxPool", "ReduceMax", "ReduceMin", "TopK", "ArgMax", "ArgMin", "Hardmax", "LSTM", "GRU", "RNN")
Maker = Callable[["Graph"], None]


class Graph:
    """A chain of nodes on one current tensor, whose shape of one item is known; earlier ones may be joined again."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shape = tuple(self.draw.choice((1, 2, 3, 4, 5, 8, 12, 16)) for _ in range(self.draw.choice((1, 2, 2, 3))))
        self.input = self.shape
        self.now, self.seen = "x", [("x", self.shape)]
        self.ordered = (
            True  # whether no value is NaN: ONNX does not say where one stands among others, or what a recurrence makes of it
        )

    def constant(self, value: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def weights(self, *shape: int) -> str:
        return self.constant(self.noise.standard_normal(shape).astype(np.float32) * 0.4)

    def add(self, kind: str, *inputs: str, shape: tuple[int, ...] | None = None, **options: object) -> None:
        if kind in ORDERING and not self.ordered:
            return
        self.ordered = self.ordered and kind not in ("Sqrt", "Log")
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.now, *inputs], [name], name=f"n{len(self.nodes)}", **options))
        self.now, self.shape = name, self.shape if shape is None else shape
        self.seen.append((name, self.shape))


def _unary(g: Graph) -> None:
    g.add(g.draw.choice(UNARY))


def _binary(g: Graph) -> None:
    same = [n for n, s in g.seen if s == g.shape]
    kind = g.draw.choice(("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"))
    if kind == "Pow":
        g.add("Abs")
        g.add("Pow", g.constant(np.float32(g.draw.choice((0.5, 1.7, 2.0, 3.0, -1.0, 0.3)))))
    elif kind == "Div" or g.draw.random() < 0.5:
        lead = g.draw.randint(0, len(g.shape))
        g.add(kind, g.constant(g.noise.uniform(0.5, 2, g.shape[lead:]).astype(np.float32)))
    else:
        g.add(kind, g.draw.choice(same))


def _matmul(g: Graph) -> None:
    out = g.draw.choice((1, 3, 4, 8, 17, 32))
    g.add("MatMul", g.weights(g.shape[-1], out), shape=(*g.shape[:-1], out))


def _convolution(g: Graph) -> None:
    over = len(g.shape) - 1
    if over not in (1, 2):
        return
    groups = g.draw.choice([d for d in (1, 2, g.shape[0]) if g.shape[0] % d == 0])
    out = groups * g.draw.choice((1, 2, 4))
    window = [g.draw.randint(1, min(3, s)) for s in g.shape[1:]]
    stride, spread = g.draw.choice((1, 2)), g.draw.choice((1, 1, 2))
    pads = [g.draw.randint(0, w - 1) for w in window]
    sizes = [(s + 2 * p - (w - 1) * spread - 1) // stride + 1 for s, p, w in zip(g.shape[1:], pads, window, strict=True)]
    if min(sizes) < 1:
        return
    g.add("Conv", g.weights(out, g.shape[0] // groups, *window), g.weights(out), shape=(out, *sizes), pads=pads * 2, group=groups,
          strides=[stride] * over, dilations=[spread] * over)  # fmt: skip


def _pool(g: Graph) -> None:
    over = len(g.shape) - 1
    if over not in (1, 2) or min(g.shape[1:]) < 2:
        return
    options: dict[str, object] = {"kernel_shape": [2] * over, "strides": [g.draw.choice((1, 2))] * over}
    kind = g.draw.choice(("MaxPool", "AveragePool"))
    if g.draw.random() < 0.5:
        options["auto_pad"] = g.draw.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
    else:
        options["ceil_mode"] = g.draw.choice((0, 1))
        if kind == "AveragePool":
            options["count_include_pad"] = g.draw.choice((0, 1))
    _unknown(g, kind, **options)


def _unknown(g: Graph, kind: str, *inputs: str, **options: object) -> None:
    """Adds a node whose shape is asked of onnx."""
    g.add(kind, *inputs, **options)
    model = onnx.shape_inference.infer_shapes(model_of(g), strict_mode=True, data_prop=True)
    g.shape = tuple(d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim[1:])
    g.seen[-1] = (g.now, g.shape)


def _reduce(g: Graph) -> None:
    kind = g.draw.choice(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare")
    )
    axis = g.draw.randint(1, len(g.shape))
    keep = 1 if len(g.shape) == 1 else g.draw.choice((0, 1))
    shape = list(g.shape)
    shape[axis - 1 : axis] = [1] if keep else []
    g.add(kind, g.constant(np.array([axis])), shape=tuple(shape), keepdims=keep)


def _softmax(g: Graph) -> None:
    g.add(g.draw.choice(("Softmax", "LogSoftmax")), axis=g.draw.randint(1, len(g.shape)))


def _normal(g: Graph) -> None:
    g.add("LayerNormalization", g.weights(g.shape[-1]), g.weights(g.shape[-1]), axis=-1)


def _move(g: Graph) -> None:
    way = g.draw.choice(("transpose", "reshape", "slice", "gather", "pad", "concat", "unsqueeze", "tile"))
    rank = len(g.shape)
    axis = g.draw.randint(1, rank)
    size = g.shape[axis - 1]
    if way == "transpose":
        perm = list(range(1, rank + 1))
        g.draw.shuffle(perm)
        g.add("Transpose", shape=tuple(g.shape[p - 1] for p in perm), perm=[0, *perm])
    elif way == "reshape":
        whole = int(np.prod(g.shape))
        part = g.draw.choice([d for d in range(1, whole + 1) if whole % d == 0])
        g.add("Reshape", g.constant(np.array([g.draw.choice((0, -1)), part, whole // part])), shape=(part, whole // part))
    elif way == "slice" and size > 1:
        step = g.draw.choice((1, 1, 2, -1))
        bounds = ([0], [size]) if step > 0 else ([size - 1], [-size - 1])
        if step == 1:
            bounds = ([g.draw.randint(0, size - 1)], [size])
        _unknown(g, "Slice", *(g.constant(np.array(v)) for v in (*bounds, [axis], [step])))
    elif way == "gather":
        index = g.noise.integers(-size, size, g.draw.choice([(), (3,), (2, 2)]))
        _unknown(g, "Gather", g.constant(index), axis=axis) if rank > 1 or index.ndim else None
    elif way == "pad":
        pads = np.zeros((2, rank + 1), np.int64)
        pads[:, axis] = g.noise.integers(0, min(3, size), 2)
        _unknown(g, "Pad", g.constant(pads.ravel()), mode=g.draw.choice(("constant", "edge", "reflect")))
    elif way == "concat":
        others = [n for n, s in g.seen if s == g.shape]
        _unknown(g, "Concat", g.draw.choice(others), axis=axis)
    elif way == "unsqueeze" and rank < 4:
        g.add("Unsqueeze", g.constant(np.array([axis])), shape=(*g.shape[: axis - 1], 1, *g.shape[axis - 1 :]))
    elif way == "tile":
        repeats = np.ones(rank + 1, np.int64)
        repeats[axis] = 2
        _unknown(g, "Tile", g.constant(repeats))


def _resize(g: Graph) -> None:
    if len(g.shape) not in (2, 3):
        return
    scales = np.array([1, 1, *(g.draw.choice((0.5, 1.0, 1.3, 1.7, 2.0)) for _ in g.shape[1:])], np.float32)
    if any(int(np.floor(s * d)) < 1 for s, d in zip(scales[2:], g.shape[1:], strict=True)):
        return
    mode = g.draw.choice(("nearest", "linear", "cubic") if len(g.shape) == 3 else ("nearest", "linear"))
    way = g.draw.choice(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"))
    near = g.draw.choice(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"))
    _unknown(g, "Resize", "", g.constant(scales), mode=mode, coordinate_transformation_mode=way, nearest_mode=near)


def _order(g: Graph) -> None:
    axis = g.draw.randint(1, len(g.shape))
    way = g.draw.choice(("cumsum", "trilu", "hardmax", "topk", "argmax"))
    if way in ("topk", "hardmax", "argmax") and not g.ordered:
        return
    if way == "cumsum":
        g.add("CumSum", g.constant(np.array(axis)), exclusive=g.draw.choice((0, 1)), reverse=g.draw.choice((0, 1)))
    elif way == "trilu" and len(g.shape) > 1:
        g.add("Trilu", g.constant(np.array(g.draw.randint(-2, 2))), upper=g.draw.choice((0, 1)))
    elif way == "hardmax":
        g.add("Hardmax", axis=axis)
    elif way == "topk":
        k = g.draw.randint(1, g.shape[axis - 1])
        _unknown(g, "TopK", g.constant(np.array([k])), axis=axis, largest=g.draw.choice((0, 1)))
    elif way == "argmax":
        shape = (*g.shape[: axis - 1], 1, *g.shape[axis:])
        g.add(g.draw.choice(("ArgMax", "ArgMin")), axis=axis, keepdims=1, shape=shape)
        g.seen.pop()
        g.add("Cast", to=onnx.TensorProto.FLOAT)


def _normal_of_channels(g: Graph) -> None:
    if len(g.shape) not in (2, 3):
        return
    kinds = ("InstanceNormalization", "BatchNormalization", "LRN")
    channels, kind = g.shape[0], g.draw.choice(kinds if len(g.shape) == 3 else kinds[:-1])
    if kind == "LRN":
        g.add(kind, size=g.draw.choice((1, 3, 5)), alpha=0.1, beta=0.75)
    elif kind == "BatchNormalization":
        g.add(kind, *(g.weights(channels) for _ in range(3)), g.constant(g.noise.uniform(0.5, 2, channels).astype(np.float32)))
    else:
        g.add(kind, g.weights(channels), g.weights(channels))


def _transposed(g: Graph) -> None:
    over = len(g.shape) - 1
    if over not in (1, 2):
        return
    groups = g.draw.choice([d for d in (1, 2, g.shape[0]) if g.shape[0] % d == 0])
    out, stride = g.draw.choice((1, 2, 3)), g.draw.choice((1, 2, 3))
    window = [g.draw.randint(1, 4) for _ in range(over)]
    options: dict[str, object] = {"strides": [stride] * over, "group": groups, "dilations": [g.draw.choice((1, 1, 2))] * over}
    way = g.draw.choice(("pads", "auto", "output_padding", "none"))
    if way == "pads":
        options["pads"] = [g.draw.randint(0, (w - 1) // 2) for w in window] * 2
    elif way == "auto":
        options["auto_pad"] = g.draw.choice(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif way == "output_padding":
        options["output_padding"] = [g.draw.randint(0, stride - 1)] * over
    _unknown(g, "ConvTranspose", g.weights(g.shape[0], out, *window), g.weights(out * groups), **options)


def _choose(g: Graph) -> None:
    """A comparison with something, and a choice by it."""
    if not g.ordered:
        return
    same = g.draw.choice([n for n, s in g.seen if s == g.shape])
    number = g.constant(np.float32(g.draw.choice((0.1, -0.3))))
    kind = g.draw.choice(("Less", "Greater", "LessOrEqual", "GreaterOrEqual"))
    flag, value = f"f{len(g.nodes)}", g.now
    g.nodes.append(helper.make_node(kind, [value, number], [flag], name=flag))
    if g.draw.random() < 0.3:
        g.nodes.append(helper.make_node("Not", [flag], [f"{flag}n"], name=f"{flag}n"))
        flag += "n"
    g.now = flag
    g.add("Where", *g.draw.sample([value, same if g.draw.random() < 0.5 else number], 2))


def _by_places(g: Graph) -> None:
    axis, kind = g.draw.randint(1, len(g.shape)), g.draw.choice(("Split", "Expand", "Flatten", "Squeeze", "Einsum"))
    size, rank = g.shape[axis - 1], len(g.shape)
    if kind == "Split" and size > 1:
        at = g.draw.randint(1, size - 1)
        names = [f"s{len(g.nodes)}", f"r{len(g.nodes)}"]
        sizes = g.constant(np.array([at, size - at]))
        g.nodes.append(helper.make_node("Split", [g.now, sizes], names, name=f"n{len(g.nodes)}", axis=axis))
        g.now = g.draw.choice(names)
        g.shape = tuple((at if g.now == names[0] else size - at) if i == axis - 1 else d for i, d in enumerate(g.shape))
        g.seen.append((g.now, g.shape))
    elif kind == "Expand":
        _unknown(g, "Expand", g.constant(np.array([1, *(g.draw.choice((1, 3)) if d == 1 else 1 for d in g.shape)])))
    elif kind == "Flatten":
        g.add("Flatten", shape=(int(np.prod(g.shape)),), axis=1)
    elif kind == "Squeeze" and size == 1 and rank > 1:
        g.add("Squeeze", g.constant(np.array([axis])), shape=tuple(d for i, d in enumerate(g.shape) if i != axis - 1))
    elif kind == "Einsum" and rank in (1, 2):
        out = g.draw.choice((2, 5))
        equation = g.draw.choice(("bi,ij->bj", "bi,ji->bj") if rank == 1 else ("bki,ij->bkj", "bki,ij->bjk", "bki,kj->bij"))
        sizes = {"b": 0, "j": out} | dict(zip("ki" if rank == 2 else "i", g.shape, strict=True))
        given, made = equation.split(",")[1].split("->")
        g.add(
            "Einsum", g.weights(*(sizes[letter] for letter in given)), shape=tuple(sizes[x] for x in made[1:]), equation=equation
        )


def _to_depth(g: Graph) -> None:
    if len(g.shape) != 3:
        return
    if g.shape[0] % 4 == 0 and g.draw.random() < 0.5:
        _unknown(g, "DepthToSpace", blocksize=2, mode=g.draw.choice(("DCR", "CRD")))
    elif g.shape[1] % 2 == 0 and g.shape[2] % 2 == 0:
        _unknown(g, "SpaceToDepth", blocksize=2)


def _recurrent(g: Graph) -> None:
    """Over an axis of the item, as exporters write it: time first, then back."""
    if len(g.shape) != 2 or g.shape[0] > 8 or not g.ordered:
        return
    kind, hidden = g.draw.choice(("LSTM", "GRU", "RNN")), g.draw.choice((1, 3, 8))
    way, (time, size) = g.draw.choice(("forward", "reverse", "bidirectional")), g.shape
    ways, gates = 2 if way == "bidirectional" else 1, {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    options: dict[str, object] = {"linear_before_reset": g.draw.choice((0, 1))} if kind == "GRU" else {}
    weights = [g.weights(ways, gates * hidden, n) for n in (size, hidden)]
    g.add("Transpose", perm=[1, 0, 2])
    g.add(kind, *weights, g.weights(ways, 2 * gates * hidden), hidden_size=hidden, direction=way, **options)
    g.add("Transpose", perm=[2, 0, 1, 3])
    del g.seen[-3:]  # of other batches, and ranks
    g.add("Reshape", g.constant(np.array([0, time, ways * hidden])), shape=(time, ways * hidden))


def _whole_numbers(g: Graph) -> None:
    way = g.draw.choice(("round trip", "mod", "clip", "prelu", "global", "bool"))
    if way == "round trip" and g.ordered:
        g.add("Clip", g.constant(np.float32(-100)), g.constant(np.float32(100)))
        g.add("Cast", to=g.draw.choice((onnx.TensorProto.INT32, onnx.TensorProto.INT64)))
        g.seen.pop()
        g.add("Cast", to=onnx.TensorProto.FLOAT)
    elif way == "mod" and g.ordered:
        g.add("Mod", g.constant(np.float32(g.draw.choice((0.7, 1.5)))), fmod=1)
    elif way == "clip":
        g.add("Clip", g.constant(np.float32(-0.5)), g.constant(np.float32(g.draw.choice((0.2, 6)))))
    elif way == "prelu":
        g.add("PRelu", g.weights(*((g.shape[0], *[1] * (len(g.shape) - 1)) if g.draw.random() < 0.5 else (1,))))
    elif way == "global" and len(g.shape) in (2, 3):
        kind = g.draw.choice(("GlobalAveragePool", "GlobalMaxPool"))
        if kind == "GlobalAveragePool" or g.ordered:
            g.add(kind, shape=(g.shape[0], *[1] * (len(g.shape) - 1)))
    elif way == "bool" and g.ordered:
        g.add("Cast", to=onnx.TensorProto.BOOL)
        g.seen.pop()
        g.add("Cast", to=onnx.TensorProto.FLOAT)


MAKERS: tuple[Maker, ...] = (
    _unary, _unary, _binary, _binary, _matmul, _convolution, _pool, _reduce, _softmax, _normal, _move, _move, _resize, _order,
    _normal_of_channels, _transposed, _choose, _by_places, _to_depth, _recurrent, _whole_numbers, _whole_numbers,
)  # fmt: skip


def model_of(g: Graph) -> onnx.ModelProto:
    """Its output is the last tensor; onnx says the shape."""
    nodes = [*g.nodes, helper.make_node("Identity", [g.now], ["y"], name="last")]
    for node in nodes:
        if node.op_type == "TopK" and len(node.output) == 1:
            node.output.append(f"{node.output[0]}_places")
    model = graph(nodes, {"x": ["n", *g.input]}, {"y": []}, g.constants, opset=21)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model
