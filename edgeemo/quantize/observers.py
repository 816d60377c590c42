"""What calibration remembers of a tensor: its range (first pass), then a histogram of absolute values (second pass)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.compile.kernels.pack import INT8_MAX
from edgeemo.quantize.kl import BINS
from edgeemo.quantize.thresholds import THRESHOLDS

SMALLEST_SCALE = 1e-8  # of a tensor that is always zero: any positive scale is right, an infinite one is not


@dataclass(frozen=True)
class ActivationScaling:
    """``observer``: of thresholds.py; ``largest``: magnitude of a quantized value, INT8_MAX at most."""

    observer: str = "kl"
    largest: int = INT8_MAX


Scalings = dict[str, ActivationScaling]  # by tensor


class Range(ABC):
    """What quantization needs to know of a tensor, wherever it comes from."""

    largest: float  # magnitude

    @abstractmethod
    def threshold(self, method: str) -> float:
        """Where to clip, by a method of thresholds.py."""

    def scale(self, how: ActivationScaling) -> float:
        """Positive and finite for every tensor: threshold / largest."""
        return max(self.threshold(how.observer) / how.largest, SMALLEST_SCALE)

    def kept(self, method: str) -> float:
        """threshold / largest value seen; 1 clips nothing."""
        return self.threshold(method) / self.largest if self.largest else 1.0


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
        largest = float(np.abs(values).max())
        if not np.isfinite(largest):
            raise EdgeEmoError(
                f"tensor {self.name} is not finite on the calibration clips; is the model trained and the audio sound?"
            )
        self.largest = max(self.largest, largest)

    def observe_histogram(self, values: np.ndarray) -> None:
        """Second pass, over the same values."""
        # Of a smaller tensor the scale is SMALLEST_SCALE whatever the histogram says, and BINS / largest may overflow.
        if self.largest > SMALLEST_SCALE * INT8_MAX and values.size:
            bins = len(self.histogram)
            at = np.minimum((np.abs(values.ravel()) * (bins / self.largest)).astype(np.int64), bins - 1)
            self.histogram += np.bincount(at, minlength=bins)
            self._found.clear()

    def threshold(self, method: str) -> float:
        if method not in self._found:
            self._found[method] = self.largest * THRESHOLDS[method](self.histogram) / len(self.histogram)
        return self._found[method]

    def remember(self, thresholds: dict[str, float]) -> None:
        """By method, found elsewhere on a copy of this."""
        self._found = dict(thresholds)

    def add(self, histogram: np.ndarray) -> None:
        """Counts of the same tensor that another observer of the same range has made."""
        self.histogram += histogram
        self._found.clear()


def fake_quantize(values: np.ndarray, scale: float, largest: int = INT8_MAX) -> np.ndarray:
    """Through int8 and back, as QuantizeLinear and DequantizeLinear do, with Clip between them where ``largest`` is less than
    what int8 holds."""
    least = -128 if largest == INT8_MAX else -largest
    return (np.clip(np.rint(values / np.float32(scale)), least, largest) * np.float32(scale)).astype(np.float32)
