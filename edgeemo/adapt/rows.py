"""Undoes what flattens items' rows into one matrix, (batch, ..., n) to (rows, n): behind it nobody can tell whose row is whose.

Exporters write softmax, fully connected layers and what stands between them so. What goes element by element or over the last
dimension is the same without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeemo.onnxlib.graph import Shape, dims, without_unread

# fmt: off
ELEMENTWISE = frozenset((
    "Abs", "Add", "Cast", "Ceil", "Clip", "Cos", "DequantizeLinear", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu",
    "Greater", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "Log", "Max", "Mean", "Min", "Mish", "Mul", "Neg",
    "Not", "Pow", "PRelu", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "Where",
))
# fmt: on
OVER_COLUMNS = frozenset(("Concat", "LayerNormalization", "LogSoftmax", "Softmax"))
REDUCTIONS = frozenset(("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"))
LAST = (-1, 1)  # a matrix's columns, by either name


@dataclass(frozen=True)
class Apart:
    """A matrix with its rows apart: its name so, and the dimensions (-1 for the batch) of which the matrix makes rows."""

    name: str
    leading: tuple[int, ...]


def keep_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {v.name: dims(v) for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    fixed: set[str] = set()  # made of constants alone: dequantized weights
    matrices: dict[str, Apart] = {}
    nodes: list[onnx.NodeProto] = []

    def shaped(source: str, shape: list[int], name: str) -> onnx.NodeProto:
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), f"{name}_shape"))
        return helper.make_node("Reshape", [source, f"{name}_shape"], [name], name=name)

    for node in model.graph.node:
        if (apart := _rows_apart(node, shapes)) is not None:
            name = node.input[0]
            if len(apart) < len(shapes[name]):  # its last dimensions became one
                name = f"{node.output[0]}_apart"
                nodes.append(shaped(node.input[0], apart, name))
            matrices[node.output[0]] = Apart(name, tuple(apart[:-1]))
        if node.input and all(name in constants or name in fixed for name in node.input if name):
            fixed |= set(node.output)
        rebuilt = _rebuilt(node, matrices, shapes, constants, fixed, model)
        if rebuilt is None:
            nodes.append(node)
            continue
        nodes += rebuilt
        # For whoever reads the matrix; one that only shapes it back reads the same numbers.
        matrices[node.output[0]] = Apart(rebuilt[-1].output[0], _leading(node, matrices))
        width = shapes[node.output[0]][-1]
        back = shaped(rebuilt[-1].output[0], [-1, int(width)], f"{node.output[0]}_rows")
        back.output[0] = node.output[0]
        nodes.append(back)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return without_unread(model)


def _rows_apart(node: onnx.NodeProto, shapes: dict[str, Shape]) -> list[int] | None:
    """Shape of what makes a matrix: the one (-1 for the batch) that has the matrix's columns last and all before them apart; None
    for any other node, and where columns are of more than the last dimensions."""
    if node.op_type not in ("Reshape", "Flatten"):
        return None
    before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if len(after) != 2 or len(before) < 3 or not isinstance(after[1], int):
        return None
    width, kept = 1, len(before)
    while kept > 0 and width < after[1] and isinstance(size := before[kept - 1], int):
        width, kept = width * size, kept - 1
    leading = [d if isinstance(d, int) else -1 for d in before[:kept]]
    return [*leading, width] if width == after[1] and kept > 1 and leading.count(-1) == 1 else None


def _leading(node: onnx.NodeProto, matrices: dict[str, Apart]) -> tuple[int, ...]:
    """Shapes of the matrices that it reads; () where it reads none, or some whose rows are not of the same dimensions."""
    found = {matrices[name].leading for name in node.input if name in matrices}
    return found.pop() if len(found) == 1 else ()


def _rebuilt(
    node: onnx.NodeProto,
    matrices: dict[str, Apart],
    shapes: dict[str, Shape],
    constants: dict[str, np.ndarray],
    fixed: set[str],
    model: onnx.ModelProto,
) -> list[onnx.NodeProto] | None:
    """The node with rows apart, its last output named anew; None where that would not be the same, or nothing is to be done."""
    made = shapes.get(node.output[0], ()) if len(node.output) == 1 else ()
    if not _leading(node, matrices) or len(made) != 2 or not isinstance(made[-1], int):
        return None
    whole = f"{node.output[0]}_whole"
    if node.op_type in ("Gemm", "MatMul"):
        if node.input[0] not in matrices or not _is_layer(node, constants, fixed):
            return None
        return _layer(node, matrices[node.input[0]].name, whole, constants, model)
    others = [name for name in node.input if name and name not in matrices]
    if any(name not in constants or constants[name].shape[:-1] not in ((), (1,)) for name in others):
        return None
    if node.op_type in OVER_COLUMNS:
        if _axis(node) not in LAST or (node.op_type == "Concat" and others):
            return None
    elif node.op_type in REDUCTIONS:
        if not _goes_over_columns(node, constants):
            return None
    elif node.op_type not in ELEMENTWISE or (node.op_type.endswith("Linear") and any(constants[n].size > 1 for n in others)):
        return None  # or with a scale for every row
    rebuilt = onnx.NodeProto()
    rebuilt.CopyFrom(node)
    rebuilt.input[:] = [matrices[name].name if name in matrices else name for name in node.input]
    rebuilt.output[:] = [whole]
    return [_over_last(rebuilt, model)] if node.op_type in OVER_COLUMNS | REDUCTIONS else [rebuilt]


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), -1)


def _goes_over_columns(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    named = {a.name: a for a in node.attribute}
    axes = (
        list(constants[node.input[1]].reshape(-1)) if len(node.input) > 1 else list(named["axes"].ints if "axes" in named else ())
    )
    return len(axes) == 1 and axes[0] in LAST and ("keepdims" not in named or named["keepdims"].i == 1)


def _over_last(node: onnx.NodeProto, model: onnx.ModelProto) -> onnx.NodeProto:
    """The same over the last dimension, however many there are before it."""
    kept = [a for a in node.attribute if a.name not in ("axis", "axes")]
    by_axes = any(a.name == "axes" for a in node.attribute)
    del node.attribute[:]
    node.attribute.extend(kept)
    if node.op_type not in REDUCTIONS:
        node.attribute.append(helper.make_attribute("axis", -1))
    elif by_axes:
        node.attribute.append(helper.make_attribute("axes", [-1]))
    else:
        node.input[1] = f"{node.output[0]}_axes"
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), node.input[1]))
    return node


def _is_layer(node: onnx.NodeProto, constants: dict[str, np.ndarray], fixed: set[str]) -> bool:
    options = {a.name: a for a in node.attribute}
    plain = all(options[key].f == 1.0 for key in ("alpha", "beta") if key in options) and not _true("transA", options)
    known = constants if _true("transB", options) else constants.keys() | fixed
    return plain and node.input[1] in known and all(name in constants for name in node.input[2:] if name)


def _true(key: str, options: dict[str, onnx.AttributeProto]) -> bool:
    return key in options and bool(options[key].i)


def _layer(
    node: onnx.NodeProto, source: str, whole: str, constants: dict[str, np.ndarray], model: onnx.ModelProto
) -> list[onnx.NodeProto]:
    """A Gemm (or MatMul) as MatMul and Add over the last dimension."""
    weight = node.input[1]
    if _true("transB", {a.name: a for a in node.attribute}):
        weight = f"{whole}_weight"
        transposed = np.ascontiguousarray(constants[node.input[1]].T)
        model.graph.initializer.append(numpy_helper.from_array(transposed, weight))
    bias = node.input[2] if len(node.input) > 2 else ""
    if not bias:
        return [helper.make_node("MatMul", [source, weight], [whole], name=node.name)]
    product = helper.make_node("MatMul", [source, weight], [f"{whole}_product"], name=node.name)
    return [product, helper.make_node("Add", [f"{whole}_product", bias], [whole], name=f"{node.name or whole}.bias")]
