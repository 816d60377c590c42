"""Rewrites of what the compiler's importer reads badly into what it reads well, once every shape but the batch is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeemo.adapt.fold import Shape, dims

Made = dict[str, list[int] | np.ndarray]  # constants by name
EVERYTHING = 10**6  # an end beyond it, of a slice of the batch, is the end: exporters write 10^9 or 2^31 for it


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {v.name: dims(v) for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    rewrites: dict[str, Callable[..., list[onnx.NodeProto] | None]] = {
        "Gather": _gather, "Slice": _slice, "Conv": _conv, "ConvTranspose": _conv_transpose,
    }  # fmt: skip
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        made: Made = {}
        shape = shapes.get(node.input[0], ()) if node.input else ()
        better = rewrites[node.op_type](node, shape, constants, made) if node.op_type in rewrites and shape else None
        nodes += [node] if better is None else better
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in made.items())
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _gather(node: onnx.NodeProto, shape: Shape, constants: dict[str, np.ndarray], made: Made) -> list[onnx.NodeProto] | None:
    """Of one constant index, as Slice and Reshape: TVM reads a shape at run time to see whether an index is negative."""
    index = constants.get(node.input[1])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(shape)
    size, rest = shape[axis], [d if isinstance(d, int) else -1 for i, d in enumerate(shape) if i != axis]
    if index is None or index.ndim or not isinstance(size, int) or rest.count(-1) > 1:
        return None
    at, piece, name = int(index) % size, f"{node.output[0]}_slice", node.name or node.output[0]
    bounds = {f"{piece}_starts": [at], f"{piece}_ends": [at + 1], f"{piece}_axes": [axis]}
    made.update(bounds | {f"{piece}_shape": rest})
    return [
        helper.make_node("Slice", [node.input[0], *bounds], [piece], name=f"{name}.slice"),
        helper.make_node("Reshape", [piece, f"{piece}_shape"], [node.output[0]], name=name),
    ]


def _slice(node: onnx.NodeProto, shape: Shape, constants: dict[str, np.ndarray], made: Made) -> list[onnx.NodeProto] | None:
    """Without axes of which it takes everything: of the batch TVM makes a size of its own of that, min(2^31, batch)."""
    given = [constants.get(name) for name in node.input[1:]]
    if any(g is None for g in given):
        return None
    starts, ends, *more = [np.atleast_1d(g) for g in given if g is not None]
    axes = more[0] if more else np.arange(len(starts))
    steps = more[1] if len(more) > 1 else np.ones(len(starts), dtype=np.int64)
    kept = [i for i in range(len(starts)) if (starts[i], steps[i]) != (0, 1) or not _all_of(int(ends[i]), shape[int(axes[i])])]
    if len(kept) == len(starts):
        return None
    if not kept:
        return [helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name)]
    names = [f"{node.output[0]}_{part}" for part in ("starts", "ends", "axes", "steps")]
    made.update({n: [int(v[i]) for i in kept] for n, v in zip(names, (starts, ends, axes, steps), strict=True)})
    return [helper.make_node("Slice", [node.input[0], *names], [node.output[0]], name=node.name)]


def _conv(node: onnx.NodeProto, shape: Shape, constants: dict[str, np.ndarray], made: Made) -> list[onnx.NodeProto] | None:
    """``auto_pad`` as the padding it comes to: half of what a window needs for ceil(size / stride) places, the odd one after
    (SAME_UPPER) or before (SAME_LOWER)."""
    options = {a.name: a for a in node.attribute}
    way = options["auto_pad"].s.decode() if "auto_pad" in options else "NOTSET"
    weight = constants.get(node.input[1])
    if way == "NOTSET" or weight is None or not all(isinstance(d, int) for d in shape[2:]):
        return None
    over = weight.ndim - 2
    strides, dilations = (list(options[n].ints) if n in options else [1] * over for n in ("strides", "dilations"))
    sides: list[tuple[int, int]] = []
    for size, window, stride, spread in zip(shape[2:], weight.shape[2:], strides, dilations, strict=True):
        places = -(-int(size) // stride)
        total = max((places - 1) * stride + (window - 1) * spread + 1 - int(size), 0) if way.startswith("SAME") else 0
        sides.append((total // 2, total - total // 2) if way == "SAME_UPPER" else (total - total // 2, total // 2))
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    del plain.attribute[:]
    plain.attribute.extend(a for name, a in options.items() if name not in ("auto_pad", "pads"))
    plain.attribute.append(helper.make_attribute("pads", [before for before, _ in sides] + [after for _, after in sides]))
    return [plain]


def _conv_transpose(
    node: onnx.NodeProto, shape: Shape, constants: dict[str, np.ndarray], made: Made
) -> list[onnx.NodeProto] | None:
    """Whose windows lie side by side (kernel = stride): each place becomes a window by itself, as a convolution of one tap makes
    all of them, whose channels then move into the window."""
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight = constants.get(node.input[1])
    if weight is None or not all(isinstance(d, int) for d in shape[1:]):
        return None
    window, sizes = weight.shape[2:], [int(d) for d in shape[2:]]
    side_by_side = tuple(options.get("strides", [1] * len(window))) == window and options.get("auto_pad", b"NOTSET") in (
        b"NOTSET",
        b"VALID",
    )
    others = ("pads", "output_padding", "output_shape")
    if not side_by_side or options.get("group", 1) != 1 or any(any(options.get(name, ())) for name in others):
        return None
    out, name, channels = node.output[0], node.name or node.output[0], weight.shape[1]
    places = int(np.prod(window))
    flat = weight.reshape(len(weight), channels * places).T
    inputs = [node.input[0], f"{out}_weight"]
    made[inputs[1]] = np.ascontiguousarray(flat.reshape(*flat.shape, *[1] * len(window)))
    if len(node.input) > 2 and node.input[2]:
        bias = constants.get(node.input[2])
        if bias is None:
            return None
        inputs.append(f"{out}_bias")
        made[inputs[2]] = np.repeat(bias, places)
    over = len(window)
    made[f"{out}_apart"] = [-1, channels, *window, *sizes]
    made[f"{out}_joined"] = [-1, channels, *(a * b for a, b in zip(sizes, window, strict=True))]
    turn = [0, 1, *(axis for i in range(over) for axis in (2 + over + i, 2 + i))]
    return [
        helper.make_node("Conv", inputs, [f"{out}_windows"], name=name),
        helper.make_node("Reshape", [f"{out}_windows", f"{out}_apart"], [f"{out}_split"], name=f"{name}.split"),
        helper.make_node("Transpose", [f"{out}_split"], [f"{out}_turned"], name=f"{name}.turn", perm=turn),
        helper.make_node("Reshape", [f"{out}_turned", f"{out}_joined"], [out], name=f"{name}.join"),
    ]


def _all_of(end: int, size: int | str) -> bool:
    return end >= (size if isinstance(size, int) else EVERYTHING)
