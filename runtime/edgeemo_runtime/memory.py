"""Memory as compiled code takes it for granted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes


def aligned_zeros(shape: tuple[int, ...], dtype: Any, margin: int = 0) -> np.ndarray:
    """Zeros at a multiple of 64 bytes, with as many behind them that may be read; ``margin``: bytes before and behind that may be
    read as well."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 2 * (ALIGNMENT + margin), dtype=np.uint8)
    start = margin + -(raw.ctypes.data + margin) % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
