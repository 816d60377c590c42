"""Weights in INT8: symmetric, a scale for every output channel or one for all, by the threshold methods that activations have."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from edgeemo.quantize.calibration.observer import Observer, positive_scales
from edgeemo.quantize.thresholds.histogram import BINS as TENSOR_BINS
from edgeemo.targets.capabilities import INT8_MAX

GRANULARITIES = ("per-channel", "per-tensor")
NEAREST, GPTQ = "nearest", "gptq"
ROUNDINGS = (NEAREST, GPTQ)
CHANNEL_BINS = 512  # a channel has hundreds of values, not a tensor's tens of thousands


@dataclass(frozen=True)
class WeightScaling:
    """Clipping and scaling of weights. ``threshold``: a name of THRESHOLDS; ``granularity``: of GRANULARITIES; ``qmax``: largest
    magnitude of a quantized weight; ``rounding``: of ROUNDINGS."""

    threshold: str
    granularity: str = "per-channel"
    qmax: int = INT8_MAX
    rounding: str = NEAREST

    def scales(self, weight: np.ndarray, axis: int) -> np.ndarray:
        """(channels,) float32 along ``axis``, threshold / qmax each; positive for a dead channel, all equal for one of the
        tensor."""
        channels = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
        rows = channels if self.granularity == "per-channel" else weight.reshape(1, -1)
        thresholds = np.abs(rows).max(axis=1) if self.threshold == "min-max" else _thresholds(rows, self.threshold)
        scales = positive_scales(thresholds / self.qmax).astype(np.float32)
        return np.ascontiguousarray(np.broadcast_to(scales, len(channels)))


_known: dict[tuple[str, bytes], np.ndarray] = {}  # a search quantizes the same weights over and over


def _thresholds(rows: np.ndarray, name: str) -> np.ndarray:
    key = (name, hashlib.sha256(repr(rows.shape).encode() + rows.tobytes()).digest())
    if key not in _known:
        bins = TENSOR_BINS if len(rows) == 1 else CHANNEL_BINS
        _known[key] = np.array([_observed(row, bins).threshold(name) for row in rows])
    return _known[key]


def _observed(values: np.ndarray, bins: int) -> Observer:
    observer = Observer("weight", bins=bins)
    observer.observe_range(values)
    observer.observe_histogram(values)
    return observer


def quantize_weight(weight: np.ndarray, scales: np.ndarray, axis: int, qmax: int = INT8_MAX) -> np.ndarray:
    """int8 in [-qmax, qmax]: without -128 two products fit an int16 lane (compile/kernels/microkernels)."""
    return np.clip(np.rint(weight / _along(scales, weight, axis)), -qmax, qmax).astype(np.int8)


def dequantize_weight(quantized: np.ndarray, scales: np.ndarray, axis: int) -> np.ndarray:
    return quantized * _along(scales, quantized, axis)


def _along(scales: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    return scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
