"""DFT and STFT as products with constant cosines and sines, which the compiler's convolution and product kernels do."""

from __future__ import annotations

import numpy as np
import onnx

from edgeemo.adapt.operators.context import Context, static
from edgeemo.onnxlib.graph import Maker, attributes


def _waves(size: int, length: int, bins: int, sign: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (size, bins) of a transform over ``length`` places, of which ``size`` are not padding."""
    angle = sign * 2 * np.pi * np.outer(np.arange(size), np.arange(bins)) / length
    return np.cos(angle), np.sin(angle)


def dft(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """Real or complex, forward or inverse, of one axis: (real, imaginary) times [[cos, sin], [-sin, cos]]."""
    options, shape = attributes(node), context.shape(node.input[0])
    length, chosen = context.constant(node, 1), context.constant(node, 2)
    if len(shape) < 2 or (context.has(node, 1) and length is None) or (context.has(node, 2) and chosen is None):
        return False
    axis = int(chosen.reshape(-1)[0]) if chosen is not None else options.get("axis", -2)
    axis %= len(shape)
    size = shape[axis]
    if not isinstance(size, int) or static(shape) is None:
        return False
    whole = size if length is None else int(length.reshape(-1)[0])
    used, inverse = min(size, whole), bool(options.get("inverse", 0))
    onesided = bool(options.get("onesided", 0))
    if onesided and inverse:
        return False
    bins = whole // 2 + 1 if onesided else whole
    cos, sin = _waves(used, whole, bins, 1 if inverse else -1)
    by = 1 / whole if inverse else 1
    parts = int(shape[-1])
    table = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)][:parts], 1) * by  # (used, parts, bins, 2)
    value = node.input[0] if used == size else make.slice(node.input[0], axis, 0, used)
    others = [i for i in range(len(shape) - 1) if i != axis]
    value = make.op("Transpose", value, perm=[*others, axis, len(shape) - 1])
    sizes = [d if isinstance(d, int) else -1 for d in (shape[i] for i in others)]
    value = make.reshape(value, [*sizes, used * parts])
    dtype = context.dtype(node.input[0])
    value = make.op("MatMul", value, make.constant(table.reshape(used * parts, bins * 2).astype(dtype), dtype))
    value = make.reshape(value, [*sizes, bins, 2])
    back = [*others, axis]
    make.op("Transpose", value, perm=[*(back.index(i) for i in range(len(back))), len(back)], output=node.output[0])
    return True


def stft(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """DFT of real signals, (batch, samples) or (batch, samples, 1): a convolution with windowed cosines and sines."""
    shape, step, window, length = context.shape(node.input[0]), *(context.constant(node, i) for i in (1, 2, 3))
    if step is None or (context.has(node, 2) and window is None) or (context.has(node, 3) and length is None):
        return False
    if len(shape) not in (2, 3) or not isinstance(shape[1], int) or (len(shape) == 3 and shape[2] != 1):
        return False
    if window is None and length is None:
        return False
    size = int(length.reshape(-1)[0]) if length is not None else len(window)  # type: ignore[arg-type]
    hop, bins = int(step.reshape(-1)[0]), size // 2 + 1 if attributes(node).get("onesided", 1) else size
    cos, sin = _waves(size, size, bins, -1)
    weights = np.stack([cos, sin], -1).reshape(size, 2 * bins)  # bin by bin, real and imaginary
    if window is not None:
        weights = weights * window.reshape(-1, 1)
    dtype = context.dtype(node.input[0])
    signal = make.reshape(node.input[0], [-1, 1, int(shape[1])])
    taps = make.constant(np.ascontiguousarray(weights.T[:, None, :]).astype(dtype), dtype)
    frames = make.op("Conv", signal, taps, strides=[hop], kernel_shape=[size])
    count = (int(shape[1]) - size) // hop + 1
    make.reshape(make.op("Transpose", frames, perm=[0, 2, 1]), [-1, count, bins, 2], output=node.output[0])
    return True


LOWERINGS = {"DFT": dft, "STFT": stft}
