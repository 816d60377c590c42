"""Moments of a layer's inputs: what rounding of its weights has to know of what it hears."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Windows:
    """How a layer reads its input: ``groups`` times ``size`` values for every output. ``kernel`` is () for a product."""

    size: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()

    def rows(self, x: np.ndarray) -> np.ndarray:
        """The input (steps, ...) of a layer as (groups, rows, size)."""
        if not self.kernel:
            return x.reshape(1, -1, self.size)
        x = np.pad(x, ((0, 0), (0, 0), *self.pads))
        taps = []
        for tap in itertools.product(*(range(k) for k in self.kernel)):
            begins = [t * d for t, d in zip(tap, self.dilations, strict=True)]
            spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
            ends = [n - s + b + 1 for n, s, b in zip(x.shape[2:], spans, begins, strict=True)]
            taps.append(x[:, :, *(slice(b, e, s) for b, e, s in zip(begins, ends, self.strides, strict=True))])
        channels = x.shape[1] // self.groups
        seen = np.stack(taps, axis=-1).reshape(len(x), self.groups, channels, -1, len(taps))
        return seen.transpose(1, 0, 3, 2, 4).reshape(self.groups, -1, self.size)


@dataclass
class Moments:
    """Sums over rows of a layer's inputs: their number, themselves (groups, size), their products (groups, size, size)."""

    rows: int = 0
    first: np.ndarray = field(default_factory=lambda: np.zeros(()))
    second: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def add(self, rows: np.ndarray) -> None:
        x = rows.astype(np.float64)
        self.rows += x.shape[1]
        self.first = self.first + x.sum(axis=1)
        self.second = self.second + x.transpose(0, 2, 1) @ x


Key = tuple[str, Windows]
