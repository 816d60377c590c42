"""A part by itself: its ranges, and its error in INT8 with the inputs it truly has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgeemo.analyze.parts import Part
from edgeemo.quantize.calibration.observer import Observer, Scalings, fake_quantize
from edgeemo.quantize.calibration.runner import Calibration
from edgeemo.quantize.report import run_layer, sqnr_db
from edgeemo.quantize.thresholds import THRESHOLDS
from edgeemo.quantize.thresholds.histogram import BINS

OUTLIER = 4.0  # times the median channel's largest magnitude
DEAD = 1e-6  # of the largest channel's: nothing comes out of such weights


@dataclass(frozen=True)
class Local:
    """Figures of a part in INT8 by itself. ``input_channels``: largest magnitude of each of the input's channels, over the
    sampled steps; ``weight_channels``: of each of the weights' output channels. ``saturation``: share of input values beyond the
    threshold."""

    sqnr_db: float
    cosine: float
    max_error: float
    max_output: float
    threshold: float
    max_input: float
    saturation: float
    histogram: np.ndarray  # (bins,) of absolute input values, 0 to max_input
    input_channels: np.ndarray
    weight_channels: np.ndarray

    @property
    def outlier_channels(self) -> int:
        return int((self.input_channels > OUTLIER * np.median(self.input_channels)).sum())

    @property
    def zero_range_inputs(self) -> int:
        """Channels of the input that never were anything but zero."""
        return int((self.input_channels == 0).sum())

    @property
    def dead_channels(self) -> int:
        return int((self.weight_channels <= DEAD * self.weight_channels.max(initial=0.0)).sum())


def study(part: Part, calibration: Calibration, scalings: Scalings) -> Local:
    """Errors are pooled over a part's inputs, ranges are of the widest of them. The calibration needs samples, histograms."""
    y, q = _outputs(part, calibration, scalings)
    widest = max(part.tensors, key=lambda t: calibration.ranges[t].largest)
    observed, x = calibration.ranges[widest], calibration.samples[widest]
    assert isinstance(observed, Observer)
    threshold = observed.threshold(scalings[widest].threshold)
    beyond = round(threshold / observed.largest * BINS) if observed.largest else BINS
    norms = float(np.linalg.norm(y) * np.linalg.norm(q))
    return Local(
        sqnr_db=sqnr_db(y, q),
        cosine=float(y @ q / norms) if norms else 1.0,
        max_error=float(np.abs(y - q).max()),
        max_output=float(np.abs(y).max()),
        threshold=threshold,
        max_input=observed.largest,
        saturation=float(observed.histogram[beyond:].sum() / max(observed.histogram.sum(), 1)),
        histogram=observed.histogram,
        input_channels=_max_per_channel(x, 1 if part.op == "Conv" else x.ndim - 1),
        weight_channels=_max_per_channel(part.layers[0].weight, part.layers[0].axis) if part.layers else np.zeros(0),
    )


def sqnr_by_threshold(part: Part, calibration: Calibration, scalings: Scalings) -> dict[str, float]:
    """dB, of the part's output in INT8, its inputs clipped by each threshold method."""
    tried = {o: {t: replace(scalings[t], threshold=o) for t in part.tensors} for o in THRESHOLDS}
    return {o: sqnr_db(*_outputs(part, calibration, how)) for o, how in tried.items()}


def _outputs(part: Part, calibration: Calibration, scalings: Scalings) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of a part in float and in INT8 on the sampled inputs, float64, flat; of an attention its inputs."""
    floating, int8 = [], []
    for layer in part.layers:
        x = calibration.samples[layer.input]
        quantized = _int8(layer.input, calibration, scalings)
        floating.append(run_layer(layer, x, layer.weight).ravel())
        int8.append(run_layer(layer, quantized, layer.dequantized_weight).ravel())
    for tensor in part.tensors if not part.layers else ():
        x = calibration.samples[tensor]
        floating.append(x.ravel())
        int8.append(_int8(tensor, calibration, scalings).ravel())
    return np.concatenate(floating).astype(np.float64), np.concatenate(int8).astype(np.float64)


def _int8(tensor: str, calibration: Calibration, scalings: Scalings) -> np.ndarray:
    how = scalings[tensor]
    return fake_quantize(calibration.samples[tensor], calibration.ranges[tensor].scale(how), how.qmax)


def _max_per_channel(values: np.ndarray, axis: int) -> np.ndarray:
    return np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis))
