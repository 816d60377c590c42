"""Interface of every model of this project: a step of a stream whose memory lies in its states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class StreamingModel(nn.Module, ABC):
    """A step is a pure function of audio and states. Training, export and tests use the same definition."""

    kind: ClassVar[str]  # as checkpoints and the command line name it
    title: ClassVar[str]
    hears: ClassVar[str] = "window"  # what an answer is about: "call", all of it so far, or its last seconds
    config: Any  # sample_rate, step_samples, frames_per_step, ring_frames, labels

    @abstractmethod
    def state_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """State name to (shape without the batch, update). Update: shift (drops the oldest), ring (may be kept in place
        as a ring along the first axis), replace. All float32, all zero at the start of a call."""

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return {name: torch.zeros(batch, *shape) for name, (shape, _) in self.state_spec().items()}

    @abstractmethod
    def forward(self, pcm: Tensor, state: dict[str, Tensor], steps: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        """pcm (B, S * 1280) float32 in [-1, 1] to probabilities (B, S, 7) and the next states."""

    def installed(self) -> dict[str, Tensor]:
        """By name in the state dict, what comes from an installed package as it is: a checkpoint does not hold it."""
        return {}

    def fold(self) -> None:
        """Turns what only training needs into constants."""
