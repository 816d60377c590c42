"""Random graphs of the supported operators, with random attributes and shapes: `python -m tests.random_graphs COUNT [SEED]`.

Each is refused in one line that names something, or gives ONNX Runtime's numbers. Prints those that do neither.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from edgeemo_runtime import EdgeEmoError, Function
from onnx import helper

from edgeemo.adapt.adapt import adapt
from edgeemo.compile.check import check_artifact
from edgeemo.compile.compiler import compile_onnx
from edgeemo.onnxlib.difference import difference
from edgeemo.onnxlib.session import open_session
from edgeemo.targets.board import load_target
from tests.graphs import graph

ITEMS = 3
CLOSE = 1e-4
UNARY = (
    "Relu", "Sigmoid", "Tanh", "Abs", "Neg", "Erf", "Softplus", "Softsign", "Elu", "Selu", "LeakyRelu", "HardSigmoid",
    "HardSwish", "Sin", "Cos", "Atan", "Sinh", "Cosh", "Floor", "Ceil", "Round", "Sign", "Exp", "Mish", "Gelu", "Celu",
    "ThresholdedRelu", "Identity", "Asinh", "Reciprocal", "Sqrt", "Log",
)  # fmt: skip
ORDERING = ("MaxPool", "ReduceMax", "ReduceMin", "TopK", "ArgMax", "ArgMin", "Hardmax")
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
        self.ordered = True  # whether no value is NaN: ONNX does not say where one stands among others

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
    model = onnx.shape_inference.infer_shapes(_model(g), strict_mode=True, data_prop=True)
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


MAKERS: tuple[Maker, ...] = (
    _unary, _unary, _binary, _binary, _matmul, _convolution, _pool, _reduce, _softmax, _normal, _move, _move, _resize, _order,
)  # fmt: skip


def _model(g: Graph) -> onnx.ModelProto:
    """Its output is the last tensor; onnx says the shape."""
    nodes = [*g.nodes, helper.make_node("Identity", [g.now], ["y"], name="last")]
    for node in nodes:
        if node.op_type == "TopK" and len(node.output) == 1:
            node.output.append(f"{node.output[0]}_places")
    model = graph(nodes, {"x": ["n", *g.input]}, {"y": []}, g.constants, opset=20)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def random_graph(seed: int) -> onnx.ModelProto:
    """x (n, ...) float -> y, by one to eight nodes."""
    g = Graph(seed)
    for _ in range(g.draw.randint(1, 8)):
        if int(np.prod(g.shape)) > 4096:
            break
        g.draw.choice(MAKERS)(g)
    return _model(g)


def outcome(model: onnx.ModelProto, folder: Path) -> str:
    """ "match", "refused", or what is wrong."""
    try:
        adapted = adapt(model, "m.onnx", {}, {}).model
        onnx.save(adapted, folder / "m.onnx")
        archive = compile_onnx(folder / "m.onnx", load_target("host")).archive
        check_artifact(folder / "m.onnx", archive)
    except EdgeEmoError as error:
        if "report it" in str(error) or "adapted, output" in str(error):  # the verb's own comparison: no refusal, a defect
            return f"differs: {error}"
        if "unforeseen" in str(error) or "crashed" in str(error) or "\n" in str(error):
            return f"no word: {error}"
        return f"refused: {error}"
    (folder / "m.edgeemo").write_bytes(archive)
    size = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(9).standard_normal((ITEMS, *size)).astype(np.float32)
    got, wanted = Function(folder / "m.edgeemo").run({"x": x})["y"], open_session(model)
    alone = [wanted.run(None, {"x": x[i : i + 1]})[0] for i in range(ITEMS)]
    # Where the last bits of the inputs decide (ties, steps, poles), no two programs agree.
    near = [wanted.run(None, {"x": x[i : i + 1] * np.float32(1 + 2.0**-21)})[0] for i in range(ITEMS)]
    reference = np.concatenate(alone)
    # Over the output's largest magnitude, as `edgeemo compile` has it: the smallest of its items may be all rounding.
    if (off := difference(got, reference)) > max(CLOSE, 16 * difference(np.concatenate(near), reference)):
        return f"differs: by {off:.2g}"
    return "match"


def main() -> None:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    counts: Counter[str] = Counter()
    begun = time.time()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = outcome(random_graph(seed), Path(folder))
            except Exception as error:  # anything but a refusal is a defect
                found = f"error {type(error).__name__}: {error}"
        counts[found.partition(":")[0][:12]] += 1
        if found != "match":
            print(seed, found[:300], flush=True)
        if (seed - first) % 200 == 199:
            print(f"-- {seed - first + 1} in {time.time() - begun:.0f} s: {dict(counts)}", flush=True)


if __name__ == "__main__":
    main()
