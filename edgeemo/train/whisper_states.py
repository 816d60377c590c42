"""Hidden states of Whisper's encoders on clean rows: to follow, and summarised to read emotions from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeemo.model.whisper import HOP, RATE, WhisperEncoder
from edgeemo.train.mix import Rows
from edgeemo.train.precision import bfloat16_products

DELAY = 100  # samples by which the student hears later than Whisper, whose frames are centred: 12.5 ms
HOP_8K = HOP * 8000 // RATE


class Teacher:
    """An encoder on the clean row: its states as tokens of 40 ms, without their positions."""

    def __init__(self, encoder: WhisperEncoder, followed: tuple[int, ...]) -> None:
        """``followed``: the layers whose states are given, counted from 1."""
        self.encoder, self.followed = encoder.requires_grad_(False), followed
        self.scale = torch.ones(len(followed) * self.width)

    @property
    def width(self) -> int:
        return self.encoder.conv1.out_channels

    def mel(self, pcm: Tensor) -> Tensor:
        """Whisper's log-mel (B, 80, frames) of pcm at 8 kHz, its loudest band at 1.0, at the student's times."""
        mel = self.encoder.log_mel(_doubled(F.pad(pcm, (DELAY, 0))[:, : pcm.shape[1]]))
        return (mel - mel.amax(dim=(1, 2), keepdim=True)).clamp(min=-2.0) + 1.0

    @torch.no_grad()
    def states(self, rows: Rows) -> Tensor:
        """(B, tokens, len(followed) * width), each channel in units of ``scale``."""
        mel = self.mel(rows.pcm)
        positions = self.encoder.positions[rows.began[:, None] + torch.arange(mel.shape[2] // 2)]
        with bfloat16_products():
            heard = self.encoder.encode(mel, positions)
        x = torch.cat([heard[i - 1].float() - positions for i in self.followed], dim=2)
        return x.reshape(len(x), -1, 2, x.shape[2]).mean(dim=2) / self.scale

    def standardise(self, rows: Rows) -> None:
        """Makes ``scale`` each channel's deviation over these rows."""
        self.scale = self.scale * self.states(rows).flatten(0, 1).std(dim=0).clamp(min=1e-3)

    @torch.no_grad()
    def summary(self, pcm: Tensor, samples: Tensor) -> Tensor:
        """Mean and deviation over time of every layer's states, of the first ``samples`` (B,) of pcm (B, n): (B, 2 * layers *
        width)."""
        with bfloat16_products():
            heard = self.encoder.encode(self.mel(pcm))
        found, frames = [], (samples // (2 * HOP_8K)).clamp(min=2)
        for states in heard:
            x = states.float()
            inside = (torch.arange(x.shape[1])[None] < frames[:, None]).float()[:, :, None]
            mean = (x * inside).sum(dim=1) / frames[:, None]
            square = ((x - mean[:, None]).square() * inside).sum(dim=1) / (frames[:, None] - 1)
            found += [mean, square.sqrt()]
        return torch.cat(found, dim=1)


def _doubled(pcm: Tensor) -> Tensor:
    """At twice the rate, by a spectrum of zeros above."""
    spectrum = torch.fft.rfft(pcm)
    return torch.fft.irfft(F.pad(spectrum, (0, spectrum.shape[1] - 1)), 2 * pcm.shape[1]) * 2.0
