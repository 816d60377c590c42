"""Resize and Upsample: along each axis a weighted sum of a few rows, whose places and weights are constants.

TVM's takes scales for sizes and another grid where size x scale is no whole number; here every mode, grid and region of ONNX is
two tables per axis. Gathers and products of tables go element by element and fuse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from edgeemo.adapt.operators.context import Context
from edgeemo.onnxlib.graph import Maker, attributes

NEARLY = 1e-5


@dataclass(frozen=True)
class _Grid:
    """How places of the result lie on places of what is resized."""

    mode: str
    transform: str
    nearest: str
    cubic: float
    exclude_outside: bool
    extrapolation: float


def resize(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    options, shape = attributes(node), context.shape(node.input[0])
    rank = len(shape)
    axes = [a % rank for a in options.get("axes", range(rank))]
    result = context.shape(node.output[0])
    if len(result) != rank or not rank:
        return False
    if all(made == size for made, size in zip(result, shape, strict=True) if isinstance(made, int) and isinstance(size, int)):
        make.op("Identity", node.input[0], output=node.output[0])  # as ONNX Runtime: whatever a scale such as 1.3 of 2 says
        return True
    roi, scales, sizes = (context.constant(node, at) for at in (1, 2, 3))
    if (scales is None or not scales.size) and sizes is None:
        return False
    grid = _Grid(
        options.get("mode", b"nearest").decode(), options.get("coordinate_transformation_mode", b"half_pixel").decode(),
        options.get("nearest_mode", b"round_prefer_floor").decode(), options.get("cubic_coeff_a", -0.75),
        bool(options.get("exclude_outside", 0)), options.get("extrapolation_value", 0.0),
    )  # fmt: skip
    if options.get("antialias", 0) and grid.mode != "nearest":
        raise context.refusal(node, "with antialias; export it without, or pool before it")
    value, outside = node.input[0], np.zeros((), dtype=bool)
    steps = []
    for n, axis in enumerate(axes):
        size, made = shape[axis], result[axis]
        if not isinstance(size, int) or not isinstance(made, int):
            continue  # the batch
        scale = _scale(options, scales, sizes, n, axes, shape, made / size)
        region = (0.0, 1.0) if roi is None or not roi.size else (float(roi[n]), float(roi[n + len(axes)]))
        if made == size and scale == 1 and grid.transform != "tf_crop_and_resize":
            continue
        places, weights, beyond = _tables(grid, size, made, scale, region)
        steps.append((axis, scale, places, weights))
        if grid.transform == "tf_crop_and_resize":
            outside = outside | beyond.reshape([-1 if i == axis else 1 for i in range(rank)])
    if _tvm_is_right(grid, shape, result, steps, options):
        return False
    dtype = context.dtype(node.input[0])
    if steps and grid.mode != "nearest" and dtype.kind != "f":
        value = make.op("Cast", value, to=onnx.TensorProto.FLOAT)
    for axis, _, places, weights in steps:
        value = _along(value, axis, rank, places, weights, dtype if dtype.kind == "f" else np.dtype(np.float32), make)
    if outside.any():
        filled = make.constant(np.asarray(grid.extrapolation, dtype=dtype))
        value = make.op("Where", make.constant(outside, bool), filled, value)
    if steps and grid.mode != "nearest" and dtype.kind != "f":
        value = make.op("Cast", value, to=context.kind(node.input[0]))
    make.op("Identity", value, output=node.output[0])
    return True


def _scale(options: dict, scales: np.ndarray | None, sizes: np.ndarray | None, n: int, axes: list[int],
           shape: tuple, ratio: float) -> float:  # fmt: skip
    if scales is not None and scales.size:
        return float(scales[n])
    policy = options.get("keep_aspect_ratio_policy", b"stretch").decode()
    if policy == "stretch" or sizes is None:
        return ratio
    ratios = [float(s) / float(shape[a]) for s, a in zip(sizes, axes, strict=True) if isinstance(shape[a], int)]
    return min(ratios) if policy == "not_larger" else max(ratios)


def _tvm_is_right(grid: _Grid, shape: tuple, result: tuple, steps: list, options: dict) -> bool:
    """Enlarging images by whole numbers, as networks do between convolutions: TVM's stays channels-last there. Its
    scale is the ratio of sizes: 1.3 times 2 places, which are 2, it would copy."""
    if len(shape) != 4 or not steps or any(axis < 2 for axis, *_ in steps) or "axes" in options:
        return False
    scaled = {axis: scale for axis, scale, *_ in steps}
    whole = all(result[a] % shape[a] == 0 and result[a] == shape[a] * scaled.get(a, 1) for a in (2, 3))
    plain = grid.mode == "linear" and grid.transform in ("half_pixel", "align_corners", "asymmetric")
    usual = (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
    return whole and (plain or (grid.mode == "nearest" and (grid.transform, grid.nearest) in usual))


def _along(value: str, axis: int, rank: int, places: np.ndarray, weights: np.ndarray, dtype: np.dtype, make: Maker) -> str:
    """The sum over taps of the rows at ``places`` (result, taps) times ``weights`` (likewise)."""
    total = ""
    for tap in range(places.shape[1]):
        if not weights[:, tap].any():
            continue
        rows = make.op("Gather", value, make.constant(places[:, tap], np.int64), axis=axis)
        if not (weights[:, tap] == 1).all():
            by = weights[:, tap].reshape([-1 if i == axis else 1 for i in range(rank)])
            rows = make.op("Mul", rows, make.constant(by, dtype))
        total = make.op("Add", total, rows) if total else rows
    return total


def _tables(grid: _Grid, size: int, made: int, scale: float, region: tuple[float, float]) -> tuple[np.ndarray, ...]:
    """Places (result, taps), their weights, and which of the result lie beyond what is resized."""
    at = _coordinates(grid, size, made, scale, region)
    beyond = (at < 0) | (at > size - 1)
    if grid.mode == "nearest":
        return _nearest(at, size, grid.nearest)[:, None], np.ones((made, 1)), beyond
    taps = 4 if grid.mode == "cubic" else 2
    first = np.floor(at).astype(np.int64) - taps // 2 + 1
    places = first[:, None] + np.arange(taps)
    distance = np.abs(places - at[:, None])
    weights = _cubic(distance, grid.cubic) if grid.mode == "cubic" else np.maximum(1 - distance, 0)
    inside = (places >= 0) & (places < size)
    if grid.exclude_outside:
        weights = weights * inside
        weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(places, 0, size - 1), weights, beyond


def _coordinates(grid: _Grid, size: int, made: int, scale: float, region: tuple[float, float]) -> np.ndarray:
    x = np.arange(made, dtype=np.float32)  # as ONNX Runtime: where two places are equally near, the last bit decides
    half, by, length = np.float32(0.5), np.float32(scale), size * scale
    if grid.transform == "asymmetric":
        return x / by
    if grid.transform == "align_corners":
        return x * np.float32(size - 1) / np.float32(made - 1) if made > 1 else np.zeros(made, np.float32)
    if grid.transform == "pytorch_half_pixel":
        return (x + half) / by - half if made > 1 else np.zeros(made, np.float32)
    if grid.transform == "tf_half_pixel_for_nn":
        return (x + half) / by
    if grid.transform == "tf_crop_and_resize":
        start, end = region
        if made == 1:
            return np.array([0.5 * (start + end) * (size - 1)], np.float32)
        return (start * (size - 1) + x * (end - start) * (size - 1) / (made - 1)).astype(np.float32)
    shift = np.float32(0)
    if grid.transform == "half_pixel_symmetric":  # what a whole number of places leaves over, on both sides
        shift = np.float32(size / 2 * (1 - made / length))
    return shift + (x + half) / by - half


def _nearest(at: np.ndarray, size: int, how: str) -> np.ndarray:
    exact = at.astype(np.float64)
    if how.startswith("round"):  # a half that division missed by a last bit is one
        halves = np.rint(exact * 2) / 2
        exact = np.where(np.abs(exact - halves) < NEARLY, halves, exact)
    rounded = {
        "floor": np.floor(exact),
        "ceil": np.ceil(exact),
        "round_prefer_floor": np.ceil(exact - 0.5),
        "round_prefer_ceil": np.floor(exact + 0.5),
    }[how]
    return np.clip(rounded, 0, size - 1).astype(np.int64)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys, "Cubic convolution interpolation for digital image processing" (1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def upsample(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """Opset 9's: Resize from the corner."""
    made = make.op("Resize", node.input[0], "", node.input[1], output=node.output[0], coordinate_transformation_mode="asymmetric",
                   nearest_mode="floor", mode=attributes(node).get("mode", b"nearest").decode())  # fmt: skip
    return bool(made)


LOWERINGS = {"Resize": resize, "Upsample": upsample}
