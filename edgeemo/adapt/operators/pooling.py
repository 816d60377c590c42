"""Pooling with padding that is not written out: auto_pad and ceil_mode, as the padding they come to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from edgeemo.adapt.operators.context import Context
from edgeemo.onnxlib.graph import Maker, attributes

Pads = list[tuple[int, int]]  # before and after, by dimension


def auto_pads(way: str, sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Pads:
    """Half of what a window needs for ceil(size / stride) places, the odd one after (SAME_UPPER) or before (SAME_LOWER)."""
    sides: Pads = []
    for size, window, stride, spread in zip(sizes, windows, strides, dilations, strict=True):
        places = -(-size // stride)
        total = max((places - 1) * stride + (window - 1) * spread + 1 - size, 0) if way.startswith("SAME") else 0
        sides.append((total // 2, total - total // 2) if way == "SAME_UPPER" else (total - total // 2, total // 2))
    return sides


def with_attributes(node: onnx.NodeProto, **changed: object) -> None:
    """In place; None drops one."""
    kept = [a for a in node.attribute if a.name not in changed]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(n, v) for n, v in changed.items() if v is not None)


def flat(pads: Pads) -> list[int]:
    return [before for before, _ in pads] + [after for _, after in pads]


def pool(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    options, shape = attributes(node), context.shape(node.input[0])[2:]
    made = context.shape(node.output[0])[2:]
    if not shape or not all(isinstance(d, int) for d in (*shape, *made)) or len(node.output) > 1:
        return False
    sizes, windows = [int(d) for d in shape], options["kernel_shape"]
    strides, dilations = (options.get(n, [1] * len(sizes)) for n in ("strides", "dilations"))
    way, ceil = options.get("auto_pad", b"NOTSET").decode(), bool(options.get("ceil_mode", 0))
    given = options.get("pads", [0] * 2 * len(sizes))
    pads: Pads = list(zip(given[: len(sizes)], given[len(sizes) :], strict=True))
    if way != "NOTSET":
        pads = auto_pads(way, sizes, windows, strides, dilations)
    elif not ceil and (node.op_type == "MaxPool" or max(dilations) == 1):
        return False
    reach = [(w - 1) * d + 1 for w, d in zip(windows, dilations, strict=True)]
    # Windows of the last place end beyond what is padded: that much more is there, and counts for nothing.
    more = [
        max((int(out) - 1) * stride + r - size - sum(pad), 0)
        for out, stride, r, size, pad in zip(made, strides, reach, sizes, pads, strict=True)
    ]
    whole = [(before, after + extra) for (before, after), extra in zip(pads, more, strict=True)]
    if node.op_type == "MaxPool":
        if ceil and not any(more) and way == "NOTSET":
            with_attributes(node, ceil_mode=None)
            return False
        _max_pool(node, context, make, whole, options)
        return True
    if node.op_type != "AveragePool":
        return False
    _average_pool(node, make, context, whole, pads, options, (sizes, list(windows), list(strides), list(dilations)))
    return True


def _max_pool(node: onnx.NodeProto, context: Context, make: Maker, pads: Pads, options: dict) -> None:
    dtype = context.dtype(node.input[0])
    value = node.input[0]
    if any(map(any, pads)):
        least = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
        value = _padded(value, pads, make.constant(np.asarray(least, dtype=dtype)), make)
    kept = {n: v for n, v in options.items() if n not in ("auto_pad", "pads", "ceil_mode")}
    make.op("MaxPool", value, output=node.output[0], **kept)


def _average_pool(node: onnx.NodeProto, make: Maker, context: Context, whole: Pads, pads: Pads, options: dict,
                  sizes: tuple[list[int], ...]) -> None:  # fmt: skip
    """Average over a window with zeros around, times window / what counts: a constant for every place."""
    value = node.input[0]
    if any(map(any, whole)):
        value = _padded(value, whole, make.constant(np.zeros((), context.dtype(node.input[0]))), make)
    counts = np.ones(())
    for n, (size, window, stride, spread) in enumerate(zip(*sizes, strict=True)):
        counted = np.ones(size)
        border = pads[n] if options.get("count_include_pad", 0) else (0, 0)
        counted = np.pad(counted, border, constant_values=1)
        counted = np.pad(counted, [w - b for w, b in zip(whole[n], border, strict=True)])
        starts = range(0, len(counted) - (window - 1) * spread, stride)
        along = np.array([counted[s : s + (window - 1) * spread + 1 : spread].sum() for s in starts])
        counts = counts[..., None] * along
    kept = {n: options[n] for n in ("kernel_shape", "strides", "dilations") if n in options}
    factor = np.prod(sizes[1]) / np.maximum(counts, 1)
    if (factor == 1).all():
        make.op("AveragePool", value, output=node.output[0], **kept)
        return
    mean = make.op("AveragePool", value, **kept)
    make.op("Mul", mean, make.constant(factor[None, None], context.dtype(node.input[0])), output=node.output[0])


def _padded(value: str, pads: Pads, filled: str, make: Maker) -> str:
    amounts = [0, 0, *(b for b, _ in pads), 0, 0, *(a for _, a in pads)]
    return make.op("Pad", value, make.constant(amounts, np.int64), filled)


def global_lp_pool(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    p, rank = attributes(node).get("p", 2), len(context.shape(node.input[0]))
    if rank < 3:
        return False
    return _norm(node, make, p, lambda x: make.op("ReduceSum", x, make.constant(range(2, rank), np.int64)))


def lp_pool(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """A mean of powers times the window: padding counts as zeros."""
    options = attributes(node)
    p = options.get("p", 2)
    kept = {n: v for n, v in options.items() if n not in ("p",)} | {"count_include_pad": 1}
    size = float(np.prod(options["kernel_shape"]))
    if options.get("ceil_mode", 0):
        return False
    return _norm(node, make, p, lambda x: make.op("Mul", make.op("AveragePool", x, **kept), make.constant(np.float32(size))))


def _norm(node: onnx.NodeProto, make: Maker, p: int, total) -> bool:  # type: ignore[no-untyped-def]
    powers = make.op("Abs", node.input[0])
    if p != 1:
        powers = make.op("Mul", powers, powers) if p == 2 else make.op("Pow", powers, make.constant(np.float32(p)))
    summed = total(powers)
    if p == 1:
        make.op("Identity", summed, output=node.output[0])
    elif p == 2:
        make.op("Sqrt", summed, output=node.output[0])
    else:
        make.op("Pow", summed, make.constant(np.float32(1 / p)), output=node.output[0])
    return True


LOWERINGS = {"MaxPool": pool, "AveragePool": pool, "LpPool": lp_pool, "GlobalLpPool": global_lp_pool}
