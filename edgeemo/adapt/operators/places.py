"""Operators that move values or pick them: by constants, as Gather, Slice, Reshape and Transpose."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnx

from edgeemo.adapt.operators.context import Context, static
from edgeemo.onnxlib.graph import BATCH, Maker, attributes

MAX_RANK_TABLE = 1 << 20  # comparisons of one row's values with each other
END = 10**6  # an end beyond it is the end of whatever size: exporters write 10^9 or 2^31


def gather(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """A Gather of one constant index as Slice and Reshape: a view of a part, where a Gather copies."""
    index, shape = context.constant(node, 1), context.shape(node.input[0])
    if index is None or index.ndim or not shape or node.input[0] in context.constants:
        return False
    axis = attributes(node).get("axis", 0) % len(shape)
    size, rest = shape[axis], [d if isinstance(d, int) else -1 for i, d in enumerate(shape) if i != axis]
    if not isinstance(size, int) or rest.count(-1) > 1:
        return False
    at = int(index) % size
    piece = make.slice(node.input[0], axis, at, at + 1)
    make.reshape(piece, rest, output=node.output[0])
    return True


def slice_(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """Without axes of which it takes everything: of the batch TVM would make a size of its own of that, min(2^31, batch)."""
    given = [context.constant(node, at) for at in range(1, len(node.input))]
    shape = context.shape(node.input[0])
    if any(g is None for g in given) or not shape:
        return False
    starts, ends, *more = [np.atleast_1d(g) for g in given if g is not None]
    axes = more[0] if more else np.arange(len(starts))
    steps = more[1] if len(more) > 1 else np.ones(len(starts), dtype=np.int64)
    whole = [_takes_all(int(starts[i]), int(ends[i]), int(steps[i]), shape[int(axes[i])]) for i in range(len(starts))]
    kept = [i for i, all_of_it in enumerate(whole) if not all_of_it]
    if any(shape[int(axes[i])] == BATCH for i in kept):
        raise context.refusal(node, "leaves out items of the batch")
    if len(kept) == len(starts):
        return False
    if not kept:
        make.op("Identity", node.input[0], output=node.output[0])
        return True
    bounds = [make.constant([int(v[i]) for i in kept], np.int64) for v in (starts, ends, axes, steps)]
    make.op("Slice", node.input[0], *bounds, output=node.output[0])
    return True


def _takes_all(start: int, end: int, step: int, size: int | str) -> bool:
    """A size along the batch: all that there is for one item."""
    least = 1 if size == BATCH else size if isinstance(size, int) else END
    return (start, step) == (0, 1) and end >= least


def pad(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """With values of the tensor itself: rows by constant places. TVM's reflection reads in front of what it reflects."""
    mode = attributes(node).get("mode", b"constant").decode()
    amounts, shape, axes = context.constant(node, 1), context.shape(node.input[0]), context.constant(node, 3)
    if mode == "constant" or amounts is None or not shape or (context.has(node, 3) and axes is None):
        return False
    chosen = [int(a) % len(shape) for a in axes] if axes is not None else list(range(len(shape)))
    value = node.input[0]
    for n, axis in enumerate(chosen):
        before, after, size = int(amounts[n]), int(amounts[n + len(chosen)]), shape[axis]
        if not before and not after:
            continue
        if not isinstance(size, int):
            return False
        rows = np.arange(max(-before, 0), size - max(-after, 0))
        rows = np.pad(rows, (max(before, 0), max(after, 0)), mode=cast(Any, mode))  # numpy's names are ONNX's
        value = make.op("Gather", value, make.constant(rows, np.int64), axis=axis)
    make.op("Identity", value, output=node.output[0])
    return True


def squeeze(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """Without axes: of one item every dimension of 1, of several all of these but the batch."""
    shape = context.shape(node.input[0])
    if context.has(node, 1) or not shape:
        return False
    axes = [i for i, d in enumerate(shape) if d == 1]
    make.op("Squeeze", node.input[0], make.constant(axes, np.int64), output=node.output[0])
    return True


def depth_to_space(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    options, shape = attributes(node), static(context.shape(node.input[0]))
    if shape is None or len(shape) != 4:
        return False
    size, (batch, channels, height, width) = options["blocksize"], shape
    left = channels // size**2
    crd = options.get("mode", b"DCR") == b"CRD"
    apart = make.reshape(node.input[0], [batch, *((left, size, size) if crd else (size, size, left)), height, width])
    turned = make.op("Transpose", apart, perm=[0, 1, 4, 2, 5, 3] if crd else [0, 3, 4, 1, 5, 2])
    make.reshape(turned, [batch, left, height * size, width * size], output=node.output[0])
    return True


def space_to_depth(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    options, shape = attributes(node), static(context.shape(node.input[0]))
    if shape is None or len(shape) != 4:
        return False
    size, (batch, channels, height, width) = options["blocksize"], shape
    crd = options.get("mode", b"DCR") == b"CRD"
    apart = make.reshape(node.input[0], [batch, channels, height // size, size, width // size, size])
    turned = make.op("Transpose", apart, perm=[0, 1, 3, 5, 2, 4] if crd else [0, 3, 5, 1, 2, 4])
    make.reshape(turned, [batch, channels * size**2, height // size, width // size], output=node.output[0])
    return True


def top_k(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """Each value's rank is how many are before it in order; the k-th is the sum of what has rank k: no sorting."""
    options, k = attributes(node), context.constant(node, 1)
    shape = context.shape(node.input[0])
    if k is None or not shape:
        return False
    axis, count = options.get("axis", -1) % len(shape), int(k.reshape(-1)[0])
    size = shape[axis]
    if not isinstance(size, int) or size * size > MAX_RANK_TABLE:
        raise context.refusal(node, f"over {size} values; at most {int(MAX_RANK_TABLE**0.5)} are ranked without sorting")
    last = _last_axis(node.input[0], axis, len(shape), make)
    mine, its = make.op("Unsqueeze", last, make.constant([-1])), make.op("Unsqueeze", last, make.constant([-2]))
    before = make.op("Greater" if options.get("largest", 1) else "Less", its, mine)
    tie = make.op("And", make.op("Equal", its, mine), make.constant(np.tri(size, k=-1, dtype=bool)))
    first = make.op("Cast", make.op("Or", before, tie), to=onnx.TensorProto.INT64)
    rank = make.op("ReduceSum", first, make.constant([-1]), keepdims=1)
    chosen = make.op("Equal", rank, make.constant(list(range(count)), np.int64))  # (..., size, k)
    zero = make.constant(np.zeros((), context.dtype(node.input[0])))
    for output, value in zip(node.output, (mine, make.constant(np.arange(int(size))[:, None], np.int64)), strict=False):
        if not output:
            continue
        nothing = zero if value == mine else make.constant(np.zeros((), np.int64))
        found = make.op("ReduceSum", make.op("Where", chosen, value, nothing), make.constant([-2]), keepdims=0)
        _back(found, axis, len(shape), make, output)
    return True


def _last_axis(value: str, axis: int, rank: int, make: Maker) -> str:
    if axis == rank - 1:
        return value
    return make.op("Transpose", value, perm=[*(i for i in range(rank) if i != axis), axis])


def _back(value: str, axis: int, rank: int, make: Maker, output: str) -> None:
    if axis == rank - 1:
        make.op("Identity", value, output=output)
    else:
        make.op("Transpose", value, perm=[*range(axis), rank - 1, *range(axis, rank - 1)], output=output)


def cumulative_sum(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """Sums of twice as many again and again (Hillis and Steele 1986). A product with a triangle of ones would make one infinity
    NaN everywhere."""
    options, axis = attributes(node), context.constant(node, 1)
    shape = context.shape(node.input[0])
    if axis is None or not shape:
        return False
    at = int(axis.reshape(-1)[0]) % len(shape)
    size, dtype, back = shape[at], context.dtype(node.input[0]), bool(options.get("reverse", 0))
    if not isinstance(size, int) or len(shape) == 1:
        return False
    zero, axes = make.constant(np.zeros((), dtype), dtype), make.constant([at], np.int64)

    def moved(value: str, by: int) -> str:
        """The value ``by`` places on, zeros where nothing came from."""
        kept = make.slice(value, at, by, size) if back else make.slice(value, at, 0, size - by)
        return make.op("Pad", kept, make.constant([0, by] if back else [by, 0], np.int64), zero, axes)

    summed = node.input[0]
    if options.get("exclusive", 0):
        nothing = make.op("Cast", make.op("Less", summed, summed), to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        summed = moved(summed, 1) if size > 1 else nothing
    for doubling in range((size - 1).bit_length()):
        summed = make.op("Add", summed, moved(summed, 1 << doubling))
    make.op("Identity", summed, output=node.output[0])
    return True


def one_hot(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    depth, values = context.constant(node, 1), context.constant(node, 2)
    shape = context.shape(node.input[0])
    if depth is None or values is None or not shape:
        return False
    size = int(depth.reshape(-1)[0])
    axis = attributes(node).get("axis", -1) % (len(shape) + 1)
    index = make.op("Cast", node.input[0], to=onnx.TensorProto.INT64)
    below = make.op("Less", index, make.constant(np.zeros((), np.int64)))
    index = make.op("Where", below, make.op("Add", index, make.constant(np.asarray(size))), index)
    hit = make.op("Equal", make.op("Unsqueeze", index, make.constant([-1])), make.constant(np.arange(size), np.int64))
    off, on = (make.constant(values.reshape(-1)[i], values.dtype) for i in (0, 1))
    _back(make.op("Where", hit, on, off), axis, len(shape) + 1, make, node.output[0])
    return True


def scatter_elements(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """By comparing every place with every index: what an index names is taken (or added) from the updates."""
    options, shape, at = attributes(node), context.shape(node.input[0]), context.shape(node.input[1])
    if not shape or not at:
        return False
    axis, reduction = options.get("axis", 0) % len(shape), options.get("reduction", b"none").decode()
    size, count = shape[axis], at[axis]
    others = all(a == b for i, (a, b) in enumerate(zip(shape, at, strict=True)) if i != axis)
    if not isinstance(size, int) or not isinstance(count, int) or not others or reduction not in ("none", "add"):
        raise context.refusal(node, "only with a fixed axis, all of the other dimensions and no other reduction than add")
    if size * count > MAX_RANK_TABLE:
        raise context.refusal(node, f"of {count} updates to {size} places; {MAX_RANK_TABLE} pairs are the most that are compared")
    data, index, update = (_last_axis(n, axis, len(shape), make) for n in node.input)
    index = make.op("Cast", index, to=onnx.TensorProto.INT64)
    below = make.op("Less", index, make.constant(np.zeros((), np.int64)))
    index = make.op("Where", below, make.op("Add", index, make.constant(np.asarray(size))), index)
    hit = make.op("Equal", make.op("Unsqueeze", index, make.constant([-2])), make.constant(np.arange(size)[:, None], np.int64))
    zero = make.constant(np.zeros((), context.dtype(node.input[0])))
    taken = make.op("Where", hit, make.op("Unsqueeze", update, make.constant([-2])), zero)
    total = make.op("ReduceSum", taken, make.constant([-1]), keepdims=0)
    if reduction == "add":
        made = make.op("Add", data, total)
    else:
        named = make.op("ReduceSum", make.op("Cast", hit, to=onnx.TensorProto.INT64), make.constant([-1]), keepdims=0)
        made = make.op("Where", make.op("Greater", named, make.constant(np.zeros((), np.int64))), total, data)
    _back(made, axis, len(shape), make, node.output[0])
    return True


def triangle(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    shape, k = context.shape(node.input[0]), context.constant(node, 1)
    if len(shape) < 2 or not all(isinstance(d, int) for d in shape[-2:]) or (context.has(node, 1) and k is None):
        return False
    rows, columns = (int(d) for d in shape[-2:])
    offset = 0 if k is None else int(k.reshape(-1)[0])
    upper = attributes(node).get("upper", 1)
    kept = ~np.tri(rows, columns, offset - 1, dtype=bool) if upper else np.tri(rows, columns, offset, dtype=bool)
    zero = make.constant(np.zeros((), context.dtype(node.input[0])))
    make.op("Where", make.constant(kept, bool), node.input[0], zero, output=node.output[0])
    return True


def hard_max(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """1 at the first of the largest."""
    shape = context.shape(node.input[0])
    axis = attributes(node).get("axis", -1) % max(len(shape), 1)
    if not shape or not isinstance(shape[axis], int):
        return False
    size = int(shape[axis])
    at = make.op("ArgMax", node.input[0], axis=axis, keepdims=1)
    places = np.arange(size).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    make.op("Cast", make.op("Equal", at, make.constant(places, np.int64)), to=context.kind(node.input[0]), output=node.output[0])
    return True


def expand(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """As a selection between the value and itself, by a constant of the shape that is wanted."""
    target, shape = context.constant(node, 1), context.shape(node.input[0])
    if target is None or node.input[0] in context.constants or not shape:
        return False
    if (target == 1).all():
        wide = max(len(shape), len(target))
        rest = static(shape)
        if rest is None:
            return False
        make.reshape(node.input[0], [1] * (wide - len(shape)) + list(rest), output=node.output[0])
        return True
    make.op("Where", make.constant(np.ones(target, dtype=bool), bool), node.input[0], node.input[0], output=node.output[0])
    return True


def shape_of(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """Shape of which all dimensions are known."""
    options, shape = attributes(node), context.shape(node.input[0])
    if node.input[0] not in context.types:
        return False
    asked = shape[options.get("start", 0) : options.get("end", len(shape))] if node.op_type == "Shape" else shape
    if not all(isinstance(d, int) for d in asked):
        return False
    sizes = [int(d) for d in asked]
    found = np.array(sizes, np.int64) if node.op_type == "Shape" else np.prod(sizes, dtype=np.int64)
    make.op("Identity", make.constant(found, np.int64), output=node.output[0])
    return True


LOWERINGS = {
    "Shape": shape_of, "Size": shape_of, "Pad": pad,
    "Gather": gather, "Slice": slice_, "Squeeze": squeeze, "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth,
    "TopK": top_k, "CumSum": cumulative_sum, "OneHot": one_hot, "Trilu": triangle, "Hardmax": hard_max, "Expand": expand,
    "ScatterElements": scatter_elements, "Scatter": scatter_elements,
}  # fmt: skip
