"""Observer of a tensor during calibration: its range (first pass), then a histogram of absolute values (second pass)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.quantize.thresholds import THRESHOLDS
from edgeemo.quantize.thresholds.histogram import BINS
from edgeemo.targets.capabilities import INT8_MAX

ZERO_SCALE = 1e-8  # of a tensor that is always zero: any positive scale is right, an infinite one is not
SMALLEST_SCALE = 1e-30  # of any other: its reciprocal is a float32, too
BLOCK = 1 << 20  # values at a time: temporaries do not grow with a tensor


@dataclass(frozen=True)
class ActivationScaling:
    """Clipping and scaling of a tensor. ``threshold``: a name of THRESHOLDS; ``qmax``: largest magnitude of a quantized value,
    INT8_MAX at most."""

    threshold: str
    qmax: int = INT8_MAX


Scalings = dict[str, ActivationScaling]  # by tensor


class Range(ABC):
    """Everything that quantization needs to know of a tensor, wherever it comes from."""

    largest: float  # magnitude

    @abstractmethod
    def threshold(self, name: str) -> float:
        """The magnitude to clip at, by the method of THRESHOLDS of this name."""

    def scale(self, how: ActivationScaling) -> float:
        """Positive and finite for every tensor: threshold / qmax."""
        return float(positive_scales(np.float64(self.threshold(how.threshold) / how.qmax)))

    def clip_ratio(self, name: str) -> float:
        """Threshold / largest value seen; 1 clips nothing."""
        return self.threshold(name) / self.largest if self.largest else 1.0


class Observer(Range):
    """Observes one tensor in two passes and constant memory (``bins`` counts)."""

    def __init__(self, name: str, largest: float = 0.0, bins: int = BINS) -> None:
        self.name, self.largest = name, largest
        self.histogram = np.zeros(bins, dtype=np.int64)
        self._found: dict[str, float] = {}

    def observe_range(self, values: np.ndarray) -> None:
        """First pass. Raises EdgeEmoError naming the tensor if a value is not finite."""
        if values.size == 0:
            return
        largest = max(abs(float(values.max())), abs(float(values.min())))
        if not np.isfinite(largest):
            raise EdgeEmoError(
                f"tensor {self.name} is not finite on the calibration clips; is the model trained and the audio sound?"
            )
        self.largest = max(self.largest, largest)

    def observe_histogram(self, values: np.ndarray) -> None:
        """Second pass, over the same values."""
        # Of a smaller tensor the scale is SMALLEST_SCALE whatever the histogram says, and BINS / largest may overflow.
        if self.largest > SMALLEST_SCALE * INT8_MAX and values.size:
            bins, flat = len(self.histogram), values.reshape(-1)
            for start in range(0, len(flat), BLOCK):
                at = np.minimum((np.abs(flat[start : start + BLOCK]) * (bins / self.largest)).astype(np.int64), bins - 1)
                self.histogram += np.bincount(at, minlength=bins)
            self._found.clear()

    def energy_kept(self, threshold: float) -> float:
        """The share of the sum of squares that is left where values are clipped to ``threshold``; 1 of a tensor of zeros."""
        middles = (np.arange(len(self.histogram)) + 0.5) * (self.largest / len(self.histogram))
        squares = self.histogram * middles**2
        whole = float(squares.sum())
        return float((self.histogram * np.minimum(middles, threshold) ** 2).sum()) / whole if whole > 0 else 1.0

    def threshold(self, name: str) -> float:
        if name not in self._found:
            self._found[name] = self.largest * THRESHOLDS[name](self.histogram) / len(self.histogram)
        return self._found[name]

    def remember(self, thresholds: dict[str, float]) -> None:
        """Takes thresholds by name, found elsewhere on a copy of this."""
        self._found = dict(thresholds)

    def add(self, histogram: np.ndarray) -> None:
        """Counts of the same tensor that another observer of the same range has made."""
        self.histogram += histogram
        self._found.clear()


def positive_scales(scales: np.ndarray | np.float64) -> np.ndarray:
    """Positive, with a finite reciprocal: what a threshold of zero, or one next to it, comes to."""
    return np.where(scales == 0, ZERO_SCALE, np.maximum(scales, SMALLEST_SCALE))


def fake_quantize(values: np.ndarray, scale: float, qmax: int = INT8_MAX) -> np.ndarray:
    """Through int8 and back, as QuantizeLinear and DequantizeLinear do, with Clip between them where ``qmax`` is less than what
    int8 holds."""
    least = -128 if qmax == INT8_MAX else -qmax
    return (np.clip(np.rint(values / np.float32(scale)), least, qmax) * np.float32(scale)).astype(np.float32)
