"""Rounding of weights that minds what a layer hears: GPTQ (Frantar et al. 2023), and the bias that keeps the layer's mean.

A weight rounded up is made good by those that are still to be rounded, as far as their inputs move together: by the inverse of
the inputs' second moments. Nothing of it costs anything at run time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from edgeemo.quantize.calibration.moments import Key, Moments, Windows
from edgeemo.quantize.calibration.runner import Progress
from edgeemo.quantize.calibration.sources import Source
from edgeemo.quantize.layers import Layer
from edgeemo.quantize.weights import GPTQ

DAMPING = 0.1  # of the mean of the moments' diagonal, added to it; chosen on dev (docs/quantization.md)
MAX_K = 2048  # inputs of an output channel: their moments are a matrix
MOST_BYTES = 1 << 26  # of a layer's moments
ROWS = 1 << 15  # that are observed of a layer, about
ROWS_PER_INPUT = 4  # with fewer, moments are of the clips rather than of the layer, and weights stay as they are nearest
BLOCK = 64  # columns after which what they owe is handed on


def windows_of(layer: Layer) -> Windows | None:
    """None where the layer is left to the nearest values: the recipe says so, too wide, depthwise, padded by a rule."""
    shape, values = layer.weight.shape, {a.name: helper.get_attribute_value(a) for a in layer.node.attribute}
    if layer.scaling.rounding != GPTQ:
        return None
    if layer.op != "Conv":
        size = layer.weight.size // shape[layer.axis]
        return Windows(size) if len(shape) == 2 and not values.get("transA") and size <= MAX_K else None
    taps, groups = len(shape) - 2, int(values.get("group", 1))
    size = int(np.prod(shape[1:]))
    if shape[1] == 1 or size > MAX_K or 8 * groups * size**2 > MOST_BYTES or values.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    pads = values.get("pads") or [0] * (2 * taps)
    return Windows(
        size,
        groups,
        tuple(shape[2:]),
        tuple(values.get("strides") or [1] * taps),
        tuple(values.get("dilations") or [1] * taps),
        tuple(zip(pads[:taps], pads[taps:], strict=True)),
    )


def observe_moments(
    model: onnx.ModelProto, source: Source, layers: Sequence[Layer], steps: int, progress: Progress
) -> dict[Key, Moments]:
    """Moments of the inputs of those ``layers`` that ask for them, by tensor and windows; ``steps`` is how many the source has.
    ``progress`` is called with files done."""
    wanted: dict[str, dict[Windows, Moments]] = {}
    for layer in layers:
        if (windows := windows_of(layer)) is not None:
            wanted.setdefault(layer.input, {}).setdefault(windows, Moments())
    if not wanted:
        progress(sum(map(len, source.groups)))
        return {}
    data, tensors = model.SerializeToString(), tuple(wanted)
    apart: dict[Key, int] = {}
    for group in source.groups:
        for tensor, found in itertools.chain.from_iterable(v.items() for v in source.values(data, tensors, group)):
            for windows, moments in wanted[tensor].items():
                rows = windows.rows(found)
                every = apart.setdefault((tensor, windows), max(1, rows.shape[1] * steps // len(found) // ROWS))
                moments.add(rows[:, ::every])
        progress(len(group))
    return {(tensor, windows): m for tensor, by_windows in wanted.items() for windows, m in by_windows.items()}


def rounded_layers(layers: Sequence[Layer], moments: Mapping[Key, Moments], biased: set[str]) -> list[Layer]:
    """The layers, with int8 weights and shifts of the bias where moments say how. ``biased``: layers that have a bias; where one
    has none its mean cannot be kept, and its moments are not about it."""
    of_weight: dict[str, Moments] = {}
    for layer in layers:
        windows = windows_of(layer) if layer.precision == "int8" else None
        if windows is not None and (found := moments.get((layer.input, windows))) is not None:
            shared = of_weight.setdefault(layer.weight_name, Moments())
            shared.rows += found.rows
            shared.first, shared.second = shared.first + found.first, shared.second + found.second
    known: dict[str, Layer] = {}
    result = []
    for layer in layers:
        name, seen = layer.weight_name, of_weight.get(layer.weight_name)
        if seen is None or seen.rows < ROWS_PER_INPUT * seen.first.shape[1]:
            result.append(layer)
            continue
        if name not in known:
            known[name] = _rounded(layer, seen, layer.name in biased)
        result.append(layer.rounded_as(known[name].int8_weight, known[name].bias_shift))
    return result


def _rounded(layer: Layer, moments: Moments, biased: bool) -> Layer:
    channels = layer.weight.shape[layer.axis]
    weight = np.moveaxis(layer.weight, layer.axis, 0).reshape(len(moments.first), -1, moments.first.shape[1]).astype(np.float64)
    scales = layer.scales.astype(np.float64).reshape(len(weight), -1, 1)
    mean = moments.first / moments.rows
    parts, shifts = [], []
    for w, scale, m, second in zip(weight, scales, mean, moments.second / moments.rows, strict=True):
        about = second - np.outer(m, m) if biased else second
        int8 = gptq(w, scale[:, 0], about, layer.scaling.qmax)
        parts.append(int8)
        shifts.append((w - int8 * scale) @ m)
    moved = np.concatenate(parts).reshape(channels, *np.moveaxis(layer.weight, layer.axis, 0).shape[1:])
    shift = np.concatenate(shifts).astype(np.float32) if biased else None
    return layer.rounded_as(np.ascontiguousarray(np.moveaxis(moved, 0, layer.axis)), shift)


def gptq(weight: np.ndarray, scale: np.ndarray, moments: np.ndarray, qmax: int) -> np.ndarray:
    """int8 (out, size) for ``weight`` (out, size) at ``scale`` (out,), by its inputs' ``moments`` (size, size).

    Columns are rounded one after another, those whose inputs are largest first; what a column is off goes to those after it, by
    the Cholesky factor of the moments' inverse.
    """
    size = len(moments)
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)] + np.eye(size) * (DAMPING * np.trace(moments) / size + 1e-12)
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, found = weight[:, order].copy(), np.zeros(weight.shape, dtype=np.int8)
    for begin in range(0, size, BLOCK):
        end = min(begin + BLOCK, size)
        owed = np.zeros((len(weight), end - begin))
        for i in range(begin, end):
            found[:, i] = np.clip(np.rint(left[:, i] / scale), -qmax, qmax)
            owed[:, i - begin] = (left[:, i] - found[:, i] * scale) / factor[i, i]
            left[:, i:end] -= np.outer(owed[:, i - begin], factor[i, i:end])
        left[:, end:] -= owed @ factor[begin:end, end:]
    result = np.zeros_like(found)
    result[:, order] = found
    return result
