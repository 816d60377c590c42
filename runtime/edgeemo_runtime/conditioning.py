"""Conditioning of a step's audio before the network: removes a constant offset, recognises silence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError, check_range
from edgeemo_runtime.memory import aligned_zeros

GAPS = ("fill", "reset")
OFFSET_MEMORY = 0.1  # weight of the newest step in the running mean


@dataclass(frozen=True)
class AudioRules:
    """Raises EdgeEmoError for a value out of range."""

    gaps: str = "fill"  # missing audio becomes silence; "reset": the stream begins anew
    max_fill_s: float = 1.0  # longer gaps reset either way
    max_offset: float = 0.01  # a running mean beyond this is taken out; 1 leaves it in
    skip_silence: bool = False
    silence_dbfs: float = -50.0  # RMS of a step
    hangover_steps: int = 6  # silent steps that still go through the network: its windows then hold nothing but silence

    def __post_init__(self) -> None:
        if self.gaps not in GAPS:
            raise EdgeEmoError(f"gaps must be one of {', '.join(GAPS)}, not {self.gaps!r}")
        for name, good in (
            ("max_fill_s must lie in 0..3600", 0 <= self.max_fill_s <= 3600),
            ("max_offset must lie in (0, 1]", 0 < self.max_offset <= 1),
            ("silence_dbfs must be at most 0", self.silence_dbfs <= 0),
            ("hangover_steps must be at least 1", self.hangover_steps >= 1),
        ):
            check_range(self, name, good)


class Conditioner:
    """Per slot: the running mean, and for how many steps it has been silent."""

    def __init__(self, slots: int, samples_per_step: int, rules: AudioRules) -> None:
        self.rules = rules
        self.mean = aligned_zeros((slots,), np.float32)
        self._silent = np.zeros(slots, dtype=np.int64)
        self._average = np.full(samples_per_step, 1.0 / samples_per_step, dtype=np.float32)
        self._threshold = np.float32(10 ** (rules.silence_dbfs / 10))  # of the mean square

    def __call__(self, slots: np.ndarray, audio: np.ndarray, learn: bool = True) -> None:
        """In place, ``audio`` (n, samples): without an offset that lasts. Sound audio is left as it is, to the bit.

        Speech with an offset of 0.05: the running mean is 0.005, 0.0095, 0.0136 after three steps; from the third on it is beyond
        0.01 and taken out.
        """
        mean = self.mean[slots]
        if learn:
            mean += np.float32(OFFSET_MEMORY) * (audio.dot(self._average) - mean)
            self.mean[slots] = mean
        shifted = np.abs(mean) > self.rules.max_offset
        if np.count_nonzero(shifted):
            audio[shifted] -= mean[shifted, None]

    def skipped(self, slots: np.ndarray, audio: np.ndarray) -> np.ndarray | None:
        """Which of the streams (n,) have been silent for longer than the hangover; None where no silence is skipped."""
        if not self.rules.skip_silence:
            return None
        silent = np.einsum("ij,ij->i", audio, audio) / audio.shape[1] < self._threshold
        self._silent[slots] = np.where(silent, self._silent[slots] + 1, 0)
        return self._silent[slots] > self.rules.hangover_steps

    def clear(self, slot: int) -> None:
        self.mean[slot] = 0
        self._silent[slot] = 0
