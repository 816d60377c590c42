"""Clips as a batch of streams."""

from __future__ import annotations

import numpy as np


def side_by_side(audio: list[np.ndarray], size: int) -> tuple[np.ndarray, list[int]]:
    """Clips as a batch of streams, filled up with silence: (clips, most steps, size) float32, and the steps each clip has."""
    steps = [-(-len(a) // size) for a in audio]
    padded = np.zeros((len(audio), max(steps), size), dtype=np.float32)
    for row, a in enumerate(audio):
        padded[row].reshape(-1)[: len(a)] = a
    return padded, steps
