"""Loop and Scan with a number of turns that is known: their bodies one after another, as recurrences are unrolled."""

from __future__ import annotations

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError
from onnx import numpy_helper

from edgeemo.onnxlib.graph import Maker, attributes, constants_of, dims, known_types, label, replace_nodes

LONGEST = 256  # turns: beyond that a graph of single turns is no way to compile a loop


def has_loops(model: onnx.ModelProto) -> bool:
    return any(n.op_type in ("Loop", "Scan") for n in model.graph.node)


def unroll_loops(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """A copy without Loop and Scan. Raises EdgeEmoError naming one whose number of turns depends on the data or is too large."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    constants, types = constants_of(plain), known_types(plain)
    nodes: list[onnx.NodeProto] = []
    for node in plain.graph.node:
        make = Maker(plain, f"{label(node)}.unrolled")
        if node.op_type == "Loop":
            _loop(node, constants, make, source)
        elif node.op_type == "Scan":
            _scan(node, types, make, source)
        else:
            nodes.append(node)
            continue
        nodes += make.nodes
    replace_nodes(plain, nodes)
    return plain


def _refusal(node: onnx.NodeProto, why: str, source: str) -> EdgeEmoError:
    return EdgeEmoError(f"{source}: node {label(node)} ({node.op_type}): {why}")


def _turn(body: onnx.GraphProto, given: dict[str, str], make: Maker, turn: int) -> list[str]:
    """The body's nodes, its inputs replaced by ``given``; the names of its outputs."""
    names = dict(given)

    def inside(name: str) -> str:
        return names.get(name, name)  # else of the graph around

    for tensor in body.initializer:
        names[tensor.name] = make.constant(numpy_helper.to_array(tensor), numpy_helper.to_array(tensor).dtype)
    for node in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{make.name}.{turn}.{label(node)}"
        copy.input[:] = [inside(n) if n else "" for n in node.input]
        for i, name in enumerate(node.output):
            if name:
                names[name] = f"{make.name}.{turn}.{name}"
                copy.output[i] = names[name]
        make.nodes.append(copy)
    return [inside(o.name) for o in body.output]


def _loop(node: onnx.NodeProto, constants: dict[str, np.ndarray], make: Maker, source: str) -> None:
    body = attributes(node)["body"]
    count = constants.get(node.input[0]) if node.input[0] else None
    if count is None or (len(node.input) > 1 and node.input[1] and not constants.get(node.input[1], np.zeros(1)).all()):
        raise _refusal(node, "the number of its turns depends on the data; --set may fix an input that decides it", source)
    turns = int(count.reshape(-1)[0])
    if not 0 < turns <= LONGEST:
        raise _refusal(node, f"{turns} turns; 1 to {LONGEST} are unrolled: feed it fewer", source)
    if not _goes_on(body):
        raise _refusal(node, "may end early, by what it computes; only loops of a fixed number of turns are unrolled", source)
    carried = list(node.input[2:])
    collected: list[list[str]] = [[] for _ in body.output[1 + len(carried) :]]
    inner = [i.name for i in body.input]
    for turn in range(turns):
        given = {inner[0]: make.constant(np.asarray(turn), np.int64), inner[1]: make.constant(np.ones((), bool), bool)}
        results = _turn(body, given | dict(zip(inner[2:], carried, strict=True)), make, turn)
        carried = results[1 : 1 + len(carried)]
        for values, name in zip(collected, results[1 + len(carried) :], strict=True):
            values.append(make.op("Unsqueeze", name, make.constant([0])))
    _give(node, carried, collected, [0] * len(collected), make)


def _goes_on(body: onnx.GraphProto) -> bool:
    """Whether the condition that the body gives is the one it was given, or true."""
    name = body.output[0].name
    made = {o: n for n in body.node for o in n.output}
    while name in made and made[name].op_type in ("Identity", "Cast"):
        name = made[name].input[0]
    if name in made and made[name].op_type == "Constant":
        return bool(numpy_helper.to_array(attributes(made[name])["value"]).all())
    held = {i.name: i for i in body.initializer}
    return name == body.input[1].name or (name in held and bool(numpy_helper.to_array(held[name]).all()))


def _scan(node: onnx.NodeProto, types: dict[str, onnx.ValueInfoProto], make: Maker, source: str) -> None:
    options = attributes(node)
    body, scanned = options["body"], options["num_scan_inputs"]
    carried, sequences = list(node.input[:-scanned]), list(node.input[-scanned:])
    axes = options.get("scan_input_axes", [0] * scanned)
    back = options.get("scan_input_directions", [0] * scanned)
    outputs = len(body.output) - len(carried)
    shape = dims(types[sequences[0]]) if sequences[0] in types else ()
    turns = shape[axes[0]] if shape else 0
    if not isinstance(turns, int) or not 0 < turns <= LONGEST:
        raise _refusal(node, f"over {turns or 'an unknown number of'} rows; 1 to {LONGEST} are unrolled: feed it fewer", source)
    collected: list[list[str]] = [[] for _ in range(outputs)]
    for turn in range(turns):
        rows = []
        for name, axis, reverse in zip(sequences, axes, back, strict=True):
            at = turns - 1 - turn if reverse else turn
            rows.append(make.op("Gather", name, make.constant(np.asarray(at), np.int64), axis=axis))
        results = _turn(body, dict(zip((i.name for i in body.input), [*carried, *rows], strict=True)), make, turn)
        carried = results[: len(carried)]
        for n, name in enumerate(results[len(carried) :]):
            axis = options.get("scan_output_axes", [0] * outputs)[n]
            collected[n].append(make.op("Unsqueeze", name, make.constant([axis])))
    for n, reverse in enumerate(options.get("scan_output_directions", [0] * outputs)):
        if reverse:
            collected[n].reverse()
    _give(node, carried, collected, list(options.get("scan_output_axes", [0] * outputs)), make)


def _give(node: onnx.NodeProto, carried: list[str], collected: list[list[str]], axes: list[int], make: Maker) -> None:
    for output, name in zip(node.output, carried, strict=False):
        if output:
            make.op("Identity", name, output=output)
    for output, parts, axis in zip(node.output[len(carried) :], collected, axes, strict=True):
        if output:
            make.op("Concat", *parts, output=output, axis=axis)
