"""Models that look at the last seconds of a call as one window: Whisper-Tiny + CLS and MFCC + BiLSTM.

Every step they hear the window again, with 160 ms more of it. What a stream carries is the log-mel spectrogram of the window, so
only the frames of the new audio are computed.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.model.config import LABELS, Sizes
from edgeemo.model.layers import windows
from edgeemo.model.streaming import StreamingModel

AT_ONCE = 64  # windows through the classifier together, where a whole clip is asked for
LOG_FLOOR = 10.0  # decades under full scale; the log-mel state counts from there, so that its zeros are silence


@dataclass(frozen=True)
class WindowConfig(Sizes):
    """Sizes of the window and its frames: those of Whisper at half its rate, where 25 ms hold the same bins."""

    sample_rate: int = 8000  # Hz
    step_samples: int = 1280
    window_steps: int = 18  # 2.88 s
    frame: int = 200  # samples, 25 ms Hann
    hop: int = 80  # samples, 10 ms
    bands: int = 80
    range_decades: float = 8.0  # what lies deeper under the window's loudest band is floor

    @property
    def frames_per_step(self) -> int:
        return self.step_samples // self.hop

    @property
    def ring_frames(self) -> int:
        """Frames one answer depends on: the window."""
        return self.window_steps * self.frames_per_step

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS


class LogMel(nn.Module):
    """PCM with ``frame - hop`` samples of history to log10 mel power + LOG_FLOOR: (B, T, bands), silence 0.

    The DFT is a convolution with the windowed sines and cosines of each bin.
    """

    basis: Tensor
    mel: Tensor

    def __init__(self, config: WindowConfig, mel: np.ndarray) -> None:
        """``mel``: filters (frame / 2 + 1, bands)."""
        super().__init__()
        self.hop = config.hop
        bins = config.frame // 2 + 1
        n, k = np.arange(config.frame), np.arange(bins)
        angle = 2 * np.pi * np.outer(k, n) / config.frame
        hann = np.hanning(config.frame + 1)[:-1]
        basis = np.concatenate([np.cos(angle), -np.sin(angle)]) * hann * 2.0  # twice: a window at 16 kHz sums twice the samples
        self.register_buffer("basis", torch.from_numpy(basis[:, None].astype(np.float32)), persistent=False)
        self.register_buffer("mel", torch.from_numpy(mel), persistent=False)

    def forward(self, pcm: Tensor) -> Tensor:
        parts = F.conv1d(pcm[:, None], self.basis, stride=self.hop)
        bins = self.basis.shape[0] // 2
        power = (parts[:, :bins] * parts[:, :bins] + parts[:, bins:] * parts[:, bins:]).transpose(1, 2)
        return torch.clamp(power @ self.mel, min=10.0**-LOG_FLOOR).log10() + LOG_FLOOR


class WindowedModel(StreamingModel):
    """The stream around a classifier of windows."""

    config: WindowConfig
    classifier: nn.Linear

    def __init__(self, config: WindowConfig, mel: np.ndarray) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config, mel)

    def state_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        c = self.config
        return {
            "pcm": ((c.frame - c.hop,), "shift"),
            "mel": ((c.ring_frames - c.frames_per_step, c.bands), "shift"),
            "steps": ((1,), "replace"),
        }

    def windows(self, pcm: Tensor, state: dict[str, Tensor], steps: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The window that ends with each step: (B * S, frames, bands), the steps heard in it (B * S, 1), and the next states."""
        c = self.config
        samples = torch.cat([state["pcm"], pcm], dim=1)
        seen = torch.cat([state["mel"], self.log_mel(samples)], dim=1)
        heard = state["steps"] + 1.0
        if steps > 1:
            heard = (heard + torch.arange(steps, dtype=torch.float32)).reshape(-1, 1)
        heard = torch.clamp(heard, max=float(c.window_steps))
        count = torch.clamp(state["steps"] + float(steps), max=float(c.window_steps))
        after = {
            "pcm": samples[:, -(c.frame - c.hop) :],
            "mel": seen[:, c.frames_per_step - c.ring_frames :],
            "steps": count,
        }
        return windows(seen, c.ring_frames, c.frames_per_step, steps), heard, after

    def scaled(self, mel: Tensor) -> Tensor:
        """Whisper's scale, its loudest band always at 1.0: a call's level means nothing."""
        top = mel.amax(dim=(1, 2), keepdim=True)
        return torch.clamp(mel - top, min=-self.config.range_decades) / 4.0 + 1.0

    @abstractmethod
    def summary(self, mel: Tensor, heard: Tensor) -> Tensor:
        """Input of ``classifier``, from scaled windows (N, frames, bands) whose last ``heard`` (N, 1) steps are the call's."""

    def logits(self, mel: Tensor, heard: Tensor) -> Tensor:
        """(N, classes), the less sure the less of the window is the call's yet: a mean over steps is then led by those that
        have heard most. The square was chosen on dev (docs/training-log.md)."""
        share = heard * (1.0 / self.config.window_steps)
        return self.classifier(self.summary(mel, heard)) * (share * share)

    def forward(self, pcm: Tensor, state: dict[str, Tensor], steps: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        seen, heard, after = self.windows(pcm, state, steps)
        if steps == 1:
            logits = self.logits(self.scaled(seen), heard)
        else:
            parts = zip(seen.split(AT_ONCE), heard.split(AT_ONCE), strict=True)
            logits = torch.cat([self.logits(self.scaled(s), h) for s, h in parts])
        return torch.softmax(logits, dim=-1).reshape(-1, steps, len(self.config.labels)), after

    def heard_tokens(self, heard: Tensor, tokens: int) -> Tensor:
        """1.0 for the window's tokens that belong to the call, else 0.0: (N, tokens, 1)."""
        each = tokens // self.config.window_steps
        index = torch.arange(tokens, dtype=torch.float32)
        return (index >= tokens - each * heard).to(torch.float32).reshape(-1, tokens, 1)

    def pooled(self, x: Tensor, heard: Tensor) -> Tensor:
        """Mean and standard deviation over the tokens of the call: (N, tokens, d) to (N, 2 d)."""
        valid = self.heard_tokens(heard, x.shape[1])
        count = valid.sum(dim=1)
        mean = (x * valid).sum(dim=1) / count
        square = (x * x * valid).sum(dim=1) / count
        return torch.cat([mean, torch.sqrt(torch.clamp(square - mean * mean, min=1e-5))], dim=1)
