"""Result (one stream) and StepResults (a batch, as arrays)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeemo_runtime.decision import LISTENING, REASONS


@dataclass(frozen=True)
class Result:
    """One stream's answer to one step. Times are seconds of that stream's audio."""

    stream: int
    start_s: float
    end_s: float
    probabilities: np.ndarray  # (labels,) float32, this step's
    smoothed: np.ndarray  # (labels,) float32, after EMA
    label: str | None  # after all rules (decision.py); None while the call is listened to: until its first decision
    intensity: str  # annoyed or furious while the caller is confidently angry, where the model tells; else empty
    handoff: str  # why the call should go to a person, in the one step that says so; else empty
    model: str  # version

    @property
    def listening(self) -> bool:
        """Whether the call has no label yet: too little speech, or no step that was sure."""
        return self.label is None


@dataclass(slots=True)
class StepResults:
    """A batch of answers as arrays; iterate for one Result per stream."""

    streams: np.ndarray  # (n,) int64, ids as in Stream.id
    start_s: np.ndarray  # (n,) float64
    end_s: np.ndarray  # (n,) float64
    probabilities: np.ndarray  # (n, labels) float32
    smoothed: np.ndarray  # (n, labels) float32
    label: np.ndarray  # (n,) int64, index into labels; decision.LISTENING, -1, where there is none yet
    intensity: list[str]  # per stream, empty where there is none
    handoff: np.ndarray  # (n,) int64, index into decision.REASONS
    waited_s: np.ndarray  # (n,) float64, from a hop's last sample to its answer, on the engine's clock
    models: list[str]  # version per stream
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.streams)

    def __iter__(self) -> Iterator[Result]:
        for i in range(len(self)):
            yield Result(
                int(self.streams[i]),
                float(self.start_s[i]),
                float(self.end_s[i]),
                self.probabilities[i],
                self.smoothed[i],
                None if self.label[i] == LISTENING else self.labels[self.label[i]],
                self.intensity[i],
                REASONS[self.handoff[i]],
                self.models[i],
            )
