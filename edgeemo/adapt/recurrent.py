"""LSTM, GRU and RNN as what they are made of: products with their weights, which quantize like any layer's, and gates.

Over a fixed number of steps only. The input's product is one for all steps; a step's product with what came before has one weight
under several layers, which calibration, quantizer and compiler know (one range, one INT8 weight).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper, numpy_helper

from edgeemo.onnxlib.dequantize import dequantized
from edgeemo.onnxlib.graph import dims, known_types

DEFAULTS = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"], "RNN": [b"Tanh"]}
KINDS = tuple(DEFAULTS)
LONGEST = 256  # steps: beyond that a graph of single steps is no way to compile a recurrence


State = tuple[str | None, ...]  # h, or h and c, by name; None is zero


class _Graph:
    """Nodes of one recurrence, in order; every output is named after it."""

    def __init__(self, name: str) -> None:
        self.name, self.nodes, self.constants = name, list[onnx.NodeProto](), list[onnx.TensorProto]()

    def op(self, kind: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> list[str]:
        made = [f"{self.name}.{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, inputs, made, name=name or f"{self.name}.{kind.lower()}{len(self.nodes)}", **attributes)
        )
        return made

    def one(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        return self.op(kind, *inputs, name=name, **attributes)[0]

    def constant(self, name: str, value: np.ndarray) -> str:
        full = f"{self.name}.{name}"
        if full not in {c.name for c in self.constants}:
            self.constants.append(numpy_helper.from_array(value, full))
        return full


def unroll(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """Raises EdgeEmoError naming a recurrence that is longer than LONGEST, or has an option that nobody here has met."""
    if not any(n.op_type in KINDS for n in model.graph.node):
        return model
    shapes = {name: dims(value) for name, value in known_types(model).items()}
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    constants |= dequantized(model, {name for n in model.graph.node if n.op_type in KINDS for name in n.input[1:]})
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(model.graph.node):
        if node.op_type not in KINDS:
            nodes.append(node)
            continue
        graph = _Graph(node.name or f"{node.op_type.lower()}{number}")
        _unroll(node, graph, shapes.get(node.input[0], ()), constants, f"{source}: node {graph.name}")
        nodes += graph.nodes
        model.graph.initializer.extend(graph.constants)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for n in nodes for name in n.input}
    kept = [i for i in model.graph.initializer if i.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _unroll(
    node: onnx.NodeProto, graph: _Graph, shape: tuple[int | str, ...], constants: dict[str, np.ndarray], who: str
) -> None:
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for name, default in (("input_forget", 0), ("layout", 0), ("activations", DEFAULTS[node.op_type])):
        if options.get(name) in (default, default * 2 if name == "activations" else default):
            del options[name]
    direction = options.pop("direction", b"forward").decode()
    hidden, linear_before_reset = options.pop("hidden_size", None), options.pop("linear_before_reset", 0)
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    weights = [constants.get(name) for name in inputs[1:4]]
    if options or inputs[4] or any(inputs[7:]):
        odd = ", ".join(options) or "sequence lengths or peepholes"
        raise EdgeEmoError(f"{who}: {node.op_type} with {odd} is not supported; activations are sigmoid and tanh")
    if weights[0] is None or weights[1] is None or not shape or not isinstance(shape[0], int):
        raise EdgeEmoError(
            f"{who}: {node.op_type} needs constant weights and a fixed number of steps, not an input of shape {shape}"
        )
    if shape[0] > LONGEST:
        raise EdgeEmoError(f"{who}: {node.op_type} over {shape[0]} steps; at most {LONGEST} are unrolled: feed it fewer")
    w, r = weights[0], weights[1]
    bias = weights[2] if weights[2] is not None else np.zeros((w.shape[0], 2 * w.shape[1]), dtype=w.dtype)
    hidden = hidden or r.shape[2]
    _check_sizes(w, r, bias, hidden, len(DEFAULTS[node.op_type]), who)
    cell: Callable[..., State] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[node.op_type]
    rows = graph.one("Transpose", inputs[0], perm=[1, 0, 2])  # (batch, steps, features): a product's rows are a stream's own
    sequences, last = [], []
    for d, reverse in enumerate({"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]):
        side = "reverse" if reverse else "forward"
        gates = w.shape[1]
        recurrent_bias = bias[d, gates:].copy()
        input_bias = bias[d, :gates].copy()
        if node.op_type != "GRU" or not linear_before_reset:
            input_bias += recurrent_bias
            recurrent_bias[:] = 0
        else:  # of the candidate gate the recurrent bias is inside the reset
            input_bias[: 2 * hidden] += recurrent_bias[: 2 * hidden]
            recurrent_bias[: 2 * hidden] = 0
        x = graph.one(
            "MatMul",
            rows,
            graph.constant(f"{side}.input_weight", np.ascontiguousarray(w[d].T)),
            name=f"{graph.name}.{side}.input",
        )
        x = graph.one("Add", x, graph.constant(f"{side}.bias", input_bias))
        pieces = graph.op("Split", x, outputs=shape[0], axis=1, num_outputs=shape[0]) if shape[0] > 1 else [x]
        flat = graph.constant("flat", np.array([0, gates], dtype=np.int64))
        pieces = [graph.one("Reshape", p, flat) for p in pieces]
        state: State = tuple(_initial(graph, name, d, hidden) for name in inputs[5 : 7 if node.op_type == "LSTM" else 6])
        outputs: list[str] = []
        for t, piece in enumerate(reversed(pieces) if reverse else pieces):
            state = cell(graph, piece, state, r[d], recurrent_bias, hidden, bool(linear_before_reset), f"{graph.name}.{side}", t)
            outputs.append(state[0] or "")
        sequences.append(outputs[::-1] if reverse else outputs)
        last.append(state)
    _results(node, graph, sequences, last, hidden)


def _check_sizes(w: np.ndarray, r: np.ndarray, bias: np.ndarray, hidden: int, functions: int, who: str) -> None:
    """Raises EdgeEmoError where weights are not of one hidden size."""
    gates = {1: 1, 2: 3, 3: 4}[functions] * hidden
    right = w.ndim == r.ndim == 3 and w.shape[1] == gates and r.shape[1:] == (gates, hidden) and bias.shape[1:] == (2 * gates,)
    if not right:
        raise EdgeEmoError(f"{who}: weights {w.shape}, {r.shape} and biases {bias.shape} are not of {hidden} hidden values")


def _rnn(graph: _Graph, x: str, state: State, r: np.ndarray, bias: np.ndarray, hidden: int, _: bool, side: str,
         step: int) -> State:  # fmt: skip
    """Elman 1990."""
    h = state[0]
    return (graph.one("Tanh", x if h is None else graph.one("Add", x, _recurrent(graph, h, r, "recurrent", side, step))),)


def _initial(graph: _Graph, name: str, direction: int, hidden: int) -> str | None:
    """(batch, hidden) of an initial state (directions, batch, hidden); None where it is zero."""
    if not name:
        return None
    one = graph.one("Gather", name, graph.constant(f"direction{direction}", np.array(direction)), axis=0)
    return graph.one("Reshape", one, graph.constant("state_flat", np.array([0, hidden], dtype=np.int64)))


def _recurrent(graph: _Graph, h: str, weight: np.ndarray, name: str, side: str, step: int) -> str:
    constant = graph.constant(f"{side.rsplit('.', 1)[-1]}.{name}_weight", np.ascontiguousarray(weight.T))
    return graph.one("MatMul", h, constant, name=f"{side}.{name}" + (f"_{step}" if step else ""))


def _lstm(graph: _Graph, x: str, state: State, r: np.ndarray, bias: np.ndarray, hidden: int, _: bool, side: str,
          step: int) -> State:  # fmt: skip
    """ONNX's order of gates: input, output, forget, cell. Hochreiter and Schmidhuber 1997, with Gers' forget gate."""
    h, c = state
    gates = x if h is None else graph.one("Add", x, _recurrent(graph, h, r, "recurrent", side, step))
    i, o, f, g = graph.op("Split", gates, outputs=4, axis=1, num_outputs=4)
    fresh = graph.one("Mul", graph.one("Sigmoid", i), graph.one("Tanh", g))
    c = fresh if c is None else graph.one("Add", graph.one("Mul", graph.one("Sigmoid", f), c), fresh)
    return graph.one("Mul", graph.one("Sigmoid", o), graph.one("Tanh", c)), c


def _gru(graph: _Graph, x: str, state: State, r: np.ndarray, bias: np.ndarray, hidden: int, linear: bool, side: str,
         step: int) -> State:  # fmt: skip
    """ONNX's order of gates: update, reset, candidate. Cho et al. 2014; ``linear``: the reset after the product, as in cuDNN."""
    h = state[0]
    z, reset, candidate = graph.op("Split", x, outputs=3, axis=1, num_outputs=3)
    if h is None:
        inside = graph.constant(f"{side}.reset_bias", bias[2 * hidden :])
        candidate = (
            graph.one("Add", candidate, graph.one("Mul", graph.one("Sigmoid", reset), inside)) if bias.any() else candidate
        )
        keep = graph.one("Sigmoid", z)
        one = graph.constant("one", np.ones((), dtype=np.float32))
        return (graph.one("Mul", graph.one("Sub", one, keep), graph.one("Tanh", candidate)),)
    if linear:
        product = _recurrent(graph, h, r, "recurrent", side, step)
        rz, rr, rh = graph.op("Split", product, outputs=3, axis=1, num_outputs=3)
        keep = graph.one("Sigmoid", graph.one("Add", z, rz))
        rh = graph.one("Add", rh, graph.constant(f"{side}.reset_bias", bias[2 * hidden :])) if bias.any() else rh
        inner = graph.one("Mul", graph.one("Sigmoid", graph.one("Add", reset, rr)), rh)
    else:
        product = _recurrent(graph, h, r[: 2 * hidden], "recurrent", side, step)
        rz, rr = graph.op("Split", product, outputs=2, axis=1, num_outputs=2)
        keep = graph.one("Sigmoid", graph.one("Add", z, rz))
        shown = graph.one("Mul", graph.one("Sigmoid", graph.one("Add", reset, rr)), h)
        inner = _recurrent(graph, shown, r[2 * hidden :], "candidate", side, step)
    fresh = graph.one("Tanh", graph.one("Add", candidate, inner))
    # (1 - z) fresh + z h, with one product less
    return (graph.one("Add", fresh, graph.one("Mul", keep, graph.one("Sub", h, fresh))),)


def _results(node: onnx.NodeProto, graph: _Graph, sequences: list[list[str]], last: list[State], hidden: int) -> None:
    """Y (steps, directions, batch, hidden), Y_h and Y_c (directions, batch, hidden), those that are used."""
    outer = graph.constant("outer", np.array([0], dtype=np.int64))
    first_two = graph.constant("first_two", np.array([0, 1], dtype=np.int64))

    def joined(parts: list[str], axis: int, output: str) -> None:
        graph.nodes.append(helper.make_node("Concat", parts, [output], name=f"{output}.concat", axis=axis))

    if node.output[0]:
        steps = []
        for t in range(len(sequences[0])):
            sides = [graph.one("Unsqueeze", s[t], first_two) for s in sequences]
            steps.append(sides[0] if len(sides) == 1 else graph.one("Concat", *sides, axis=1))
        joined(steps, 0, node.output[0])
    for n, output in enumerate(node.output[1:]):
        if output:
            joined([graph.one("Unsqueeze", state[n] or "", outer) for state in last], 0, output)
