"""Files written for one item: a batch of 1 in the constants of Reshape, in states, class tokens and squeezes.

What such a file computes for one item is what it means. Shapes for one item and for two are compared node by node; where a
constant keeps the second item out, the node is written so that it lets it through. Whether that is the same function, `adapt`
tells at its end.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
from onnx import helper

from edgeemo.adapt.constants import fold_constants
from edgeemo.onnxlib.graph import BATCH, Maker, Shape, constants_of, inputs_of, label, over_items, replace_nodes, set_dims

ROUNDS = 100  # one node that is mended shows the shapes behind it
STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
Sizes = dict[str, tuple[int, ...]]


def for_any_batch(model: onnx.ModelProto, shapes: dict[str, Shape]) -> onnx.ModelProto:
    """``model`` (inputs of ``shapes``) with nodes rewritten that hold a batch of 1; itself where there is none."""
    model = fold_constants(model)
    for _ in range(ROUNDS):
        one, two = (_inferred(model, shapes, n) for n in (1, 2))
        if not _mend(model, one, two):
            break
    return model


def _inferred(model: onnx.ModelProto, shapes: dict[str, Shape], batch: int) -> Sizes:
    """Shapes of all tensors for which onnx finds one."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for info in inputs_of(sized):
        set_dims(info, tuple(batch if d == BATCH else d for d in shapes[info.name]))
    for info in sized.graph.output:
        info.type.tensor_type.ClearField("shape")
    del sized.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True)
    found: Sizes = {i.name: tuple(i.dims) for i in model.graph.initializer}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            found[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return found


def _mend(model: onnx.ModelProto, one: Sizes, two: Sizes) -> bool:
    """Rewrites what can be told to be wrong from shapes for one item and for two; whether anything was."""
    constants = constants_of(model)
    nodes: list[onnx.NodeProto] = []
    mended = False
    for node in model.graph.node:
        make = Maker(model, f"{label(node)}.one_item")
        if not mended:
            before = [*node.input]
            mended = _mend_shape(node, constants, one, two, make) or _mend_parts(node, constants, one, two, make)
            mended = mended or before != [*node.input]
        nodes += [*make.nodes, node]
    if mended:
        replace_nodes(model, nodes)
    return mended


def _axis(one: tuple[int, ...], two: tuple[int, ...]) -> int | None:
    """The dimension that has the batch in it, alone or with others."""
    differ = [i for i in range(len(one)) if len(one) == len(two) and one[i] != two[i]]
    return differ[0] if len(differ) == 1 and two[differ[0]] == 2 * one[differ[0]] else None


def _mend_shape(node: onnx.NodeProto, constants: dict[str, np.ndarray], one: Sizes, two: Sizes, make: Maker) -> bool:
    """A Reshape, Squeeze or Unsqueeze that keeps or loses one item's 1 becomes a Reshape with -1 in the batch's place."""
    if node.op_type not in ("Reshape", "Squeeze", "Unsqueeze") or not node.input or node.input[0] in constants:
        return False
    if node.op_type == "Reshape" and node.input[1] not in constants:
        return False
    source, result = node.input[0], node.output[0]
    if source not in one or source not in two or result not in one:
        return False
    axis = _axis(one[source], two[source])
    if axis is None:
        return False
    place = _place(one[source], axis, one[result])
    if place is None:
        return False
    wanted = tuple(2 * d if i == place else d for i, d in enumerate(one[result]))
    if two.get(result) == wanted:
        return False
    shape = [-1 if i == place else d for i, d in enumerate(one[result])]
    node.op_type = "Reshape"
    del node.attribute[:]
    node.input[:] = [source, make.constant(shape, np.int64)]
    return True


def _place(source: tuple[int, ...], axis: int, result: tuple[int, ...]) -> int | None:
    """Axis of ``result`` to which the batch goes that ``source`` has at ``axis``: a 1 with as much before it, or else the
    dimension whose rows then are all items' ones."""
    if prod(source) != prod(result) or not result or 0 in result:
        return None
    before = prod(source[:axis])
    places = [i for i in range(len(result)) if prod(result[:i]) == before]
    alone = [i for i in places if result[i] == 1]
    return alone[0] if alone else places[-1] if places else None


def _mend_parts(node: onnx.NodeProto, constants: dict[str, np.ndarray], one: Sizes, two: Sizes, make: Maker) -> bool:
    """States and joined parts that are of one item, for as many as the others."""
    if node.op_type in STATES:
        places, joined = STATES[node.op_type], node.input[0]
        axis = 1
    elif node.op_type == "Concat":
        along = next(a.i for a in node.attribute if a.name == "axis")
        batched = [n for n in node.input if n in one and n in two and _axis(one[n], two[n]) not in (None, along % len(one[n]))]
        if not batched:
            return False
        joined, places = batched[0], tuple(i for i, n in enumerate(node.input) if n not in batched)
        axis = _axis(one[joined], two[joined]) or 0
    else:
        return False
    if joined not in one or joined not in two or _axis(one[joined], two[joined]) != axis:
        return False
    mended = False
    for at in places:
        part = node.input[at] if at < len(node.input) else ""
        if part not in constants or one[part][axis : axis + 1] != (1,):
            continue
        if node.op_type in STATES and not constants[part].any():
            node.input[at] = ""
        elif one[joined][axis] == 1:
            like = helper.make_tensor_value_info(joined, onnx.TensorProto.UNDEFINED, one[joined])
            kind = helper.np_dtype_to_tensor_dtype(constants[part].dtype)
            node.input[at] = over_items(make, part, kind, len(one[part]), axis, like, axis)
        else:
            continue
        mended = True
    return mended
