"""Frees the batch: what a graph that was folded for 2 items holds otherwise than the same for 3 becomes right for any number."""

from __future__ import annotations

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper, numpy_helper

from edgeemo.adapt.rows import ELEMENTWISE
from edgeemo.onnxlib.graph import (
    BATCH,
    Maker,
    Shape,
    constants_of,
    dims,
    inputs_of,
    label,
    over_items,
    replace_nodes,
    set_dims,
)  # fmt: skip

SMALL, LARGE = 2, 3  # neither is 1: a dimension of 1 broadcasts, and would hide what depends on the batch
BROADCASTS = ELEMENTWISE | {"MatMul"}  # a constant of one item serves all
STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
END = 2**31 - 1


def free_the_batch(small: onnx.ModelProto, large: onnx.ModelProto, source: str) -> None:
    """Rewrites in ``small`` what differs from ``large``; both with inferred shapes. Raises EdgeEmoError naming a node that holds
    the batch in a way nothing can undo."""
    one, other = constants_of(small), constants_of(large)
    types = _types(small), _types(large)
    nodes: list[onnx.NodeProto] = []
    for node, twin in zip(small.graph.node, large.graph.node, strict=True):
        make = Maker(small, f"{label(node)}.any_batch")
        if node.op_type == "Reshape" and node.input[1] in one:
            _free_reshape(node, types, one[node.input[1]], make, source)
        else:
            for at, (mine, its) in enumerate(zip(node.input, twin.input, strict=True)):
                a, b = one.get(mine), other.get(its)
                if a is None or b is None or (a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")):
                    continue
                node.input[at] = _freed(node, at, a, b, types, make, source)
        nodes += [*make.nodes, node]
    replace_nodes(small, nodes)
    _free_outputs(small, large, types, source)


def _types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    return {v.name: v for v in (*model.graph.value_info, *model.graph.output, *model.graph.input)}


Types = tuple[dict[str, onnx.ValueInfoProto], dict[str, onnx.ValueInfoProto]]


def _free_reshape(node: onnx.NodeProto, types: Types, target: np.ndarray, make: Maker, source: str) -> None:
    sizes = [tuple(dims(t[n]) if n in t else () for n in (node.input[0], node.output[0])) for t in types]
    free = _any_reshape(sizes[0], sizes[1])
    if free is None:
        if sizes[0] == sizes[1] or (target < 0).any():  # of constants alone, or it says itself what is left
            return
        raise _refusal(node, source)
    if not np.array_equal(free, target):
        node.input[1] = make.constant(free, np.int64)
    kept = [a for a in node.attribute if a.name != "allowzero"]  # whose zero would be a size, not a copy
    del node.attribute[:]
    node.attribute.extend(kept)


def _any_reshape(small: tuple[Shape, ...], large: tuple[Shape, ...]) -> np.ndarray | None:
    """Target shape of a Reshape, from its input and result, for SMALL and for LARGE items; None where not just one
    dimension of the result has the batch in it. Where both begin with the batch it is copied (0): a compiler can follow that."""
    a, b = small[1], large[1]
    known = len(a) == len(b) > 0 and all(isinstance(d, int) for d in (*a, *b))
    if not known or sum(x != y for x, y in zip(a, b, strict=True)) != 1:
        return None
    first = [shape[:1] for shape in (*small, *large)] == [(SMALL,), (SMALL,), (LARGE,), (LARGE,)]
    return np.array([(0 if first else -1) if x != y else x for x, y in zip(a, b, strict=True)], dtype=np.int64)


def _freed(node: onnx.NodeProto, at: int, a: np.ndarray, b: np.ndarray, types: Types, make: Maker, source: str) -> str:
    """The name of what stands for any batch where ``a`` and ``b``, constants for SMALL and for LARGE items, do for theirs."""
    if node.op_type == "Expand" and at == 1 and a.shape == b.shape:
        return make.constant(np.where(a != b, 1, a))  # what is expanded is no constant: it has the batch already
    if node.op_type == "Slice" and at in (1, 2) and a.shape == b.shape:
        return make.constant(np.where(a != b, END, a))
    if node.op_type == "Resize" and at == 3 and a.shape == b.shape and not any(x.name == "axes" for x in node.attribute):
        kept = np.flatnonzero(a == b)
        node.attribute.append(helper.make_attribute("axes", kept.tolist()))
        return make.constant(a[kept])
    axes = [i for i in range(a.ndim) if a.ndim == b.ndim and a.shape[i] != b.shape[i]]
    if len(axes) != 1 or not (a == a.take([0], axes[0])).all() or (a.shape[axes[0]], b.shape[axes[0]]) != (SMALL, LARGE):
        raise _refusal(node, source)
    one = a.take([0], axes[0])  # the same for every item, as zero states are
    if node.op_type in BROADCASTS:
        return make.constant(one, one.dtype)
    if at in STATES.get(node.op_type, ()) and not one.any():
        return ""  # which says zero
    near = [*node.input, *(i.name for i in inputs_of(make.model))]
    like = next((x for n in near if (x := _batched(n, types)) is not None), None)
    if like is None:
        raise _refusal(node, source)
    kind = helper.np_dtype_to_tensor_dtype(one.dtype)
    return over_items(make, make.constant(one, one.dtype), kind, one.ndim, axes[0], *like)


def _batched(name: str, types: Types) -> tuple[onnx.ValueInfoProto, int] | None:
    """A tensor that has the batch as one dimension, and which."""
    if not all(name in t for t in types):
        return None
    a, b = (dims(t[name]) for t in types)
    axes = [i for i in range(len(a)) if len(a) == len(b) and a[i] != b[i]]
    return (types[0][name], axes[0]) if len(axes) == 1 and (a[axes[0]], b[axes[0]]) == (SMALL, LARGE) else None


def _refusal(node: onnx.NodeProto, source: str) -> EdgeEmoError:
    return EdgeEmoError(
        f"{source}: node {label(node)} ({node.op_type}) holds the batch in a constant; export it with a dynamic first dimension"
    )


def _free_outputs(small: onnx.ModelProto, large: onnx.ModelProto, types: Types, source: str) -> None:
    """Says which dimension of inputs and outputs is the batch. An output without one is a constant: it gets one."""
    constants = {i.name for i in small.graph.initializer} | _made_of_constants(small)
    nodes = list(small.graph.node)
    # Rows of all items in one dimension are taken apart; a constant is given to every item.
    for info, other in zip(small.graph.output, large.graph.output, strict=True):
        a, b = dims(info), dims(other)
        differ = [i for i in range(len(a)) if len(a) == len(b) and a[i] != b[i]]
        make = Maker(small, f"{info.name}.any_batch")
        held = next((i for i in small.graph.initializer if i.name == info.name), None)
        if held is not None and len(differ) == 1 and a[differ[0]] == SMALL:  # the same for every item, or it would not be one
            held.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(held).take([0], differ[0]), info.name))
            a, differ = (*a[: differ[0]], 1, *a[differ[0] + 1 :]), []
        if len(a) == len(b) and not differ and info.name in constants and all(isinstance(d, int) for d in a):
            shape: Shape = a if a[:1] == (1,) else (1, *a)
            like = next((x for i in inputs_of(small) if (x := _batched(i.name, types)) is not None), None)
            if like is None:
                raise EdgeEmoError(
                    f"{source}: output {info.name} is a constant, and no input has a batch that says how many; "
                    "leave it out of the graph"
                )
            part = make.reshape(renamed(small, nodes, info.name), [int(d) for d in shape])
            over_items(make, part, info.type.tensor_type.elem_type, len(shape), 0, *like, output=info.name)
            set_dims(info, (BATCH, *shape[1:]))
        elif len(differ) == 1 and a[differ[0]] != SMALL and _times(a[differ[0]], b[differ[0]]):
            at = differ[0]
            each = int(a[at]) // SMALL
            make.reshape(renamed(small, nodes, info.name), [*a[:at], -1, each, *a[at + 1 :]], output=info.name)  # type: ignore[list-item]
            set_dims(info, (*a[:at], BATCH, each, *a[at + 1 :]))
        else:
            set_dims(info, _batch_dims(info, other, source))
        nodes += make.nodes
    for info, other in zip(inputs_of(small), inputs_of(large), strict=True):
        set_dims(info, _batch_dims(info, other, source))
    replace_nodes(small, nodes)


def _times(a: int | str, b: int | str) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a % SMALL == 0 and b == a // SMALL * LARGE


def _made_of_constants(model: onnx.ModelProto) -> set[str]:
    made = {i.name for i in model.graph.initializer}
    for node in model.graph.node:
        if all(n in made for n in node.input if n) and not any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            made |= set(node.output)
    return made


def renamed(model: onnx.ModelProto, nodes: list[onnx.NodeProto], name: str) -> str:
    """Renames the tensor ``name``, so that an output may have that name."""
    inner = f"{name}.of_one_item"
    for node in nodes:
        for names in (node.input, node.output):
            for i, found in enumerate(names):
                if found == name:
                    names[i] = inner
    for constant in model.graph.initializer:
        if constant.name == name:
            constant.name = inner
    return inner


def _batch_dims(info: onnx.ValueInfoProto, other: onnx.ValueInfoProto, source: str) -> Shape:
    a, b = dims(info), dims(other)
    shape = tuple(BATCH if x != y else x for x, y in zip(a, b, strict=True)) if len(a) == len(b) else ()
    if shape.count(BATCH) != 1 or not all(isinstance(d, int) or d == BATCH for d in shape):
        raise EdgeEmoError(
            f"{source}: output {info.name}: {a} for {SMALL} streams and {b} for {LARGE}: no one batch; is the first dimension of "
            "every input the batch? --shape INPUT=1,batch,SIZE says where it is, --shape INPUT=8,SIZE that all is one item's; "
            "leave out an output that items share"
        )
    return shape
