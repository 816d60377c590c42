"""Whisper-Tiny + CLS: Whisper's encoder over the window, and a classifier on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeemo.model.frontend import slaney_mel
from edgeemo.model.names import WHISPER_TINY_CLS
from edgeemo.model.whisper import WhisperEncoder, load_whisper
from edgeemo.model.windowed import WindowConfig, WindowedModel


@dataclass(frozen=True)
class WhisperConfig(WindowConfig):
    width: int = 384
    heads: int = 6
    layers: int = 4
    hidden: int = 512  # of the classifier's first layer
    summary: int = 256  # of its second
    as_installed: bool = False  # whether the encoder is the installed package's, untouched


class WhisperTinyCls(WindowedModel):
    """Whisper's encoder (Radford et al. 2022); mean and deviation over time of every layer, standardised; a classifier with
    two hidden layers: what tells emotions apart is not the same in every language, and a linear one cannot ask which it is."""

    kind, title = WHISPER_TINY_CLS, "Whisper-Tiny + CLS, emotion"
    config: WhisperConfig
    mean: Tensor
    gain: Tensor

    def __init__(self, config: WhisperConfig | None = None, encoder: WhisperEncoder | None = None) -> None:
        config = config or WhisperConfig()
        # Whisper's filters at 16 kHz; 8 kHz audio has nothing above the first half of their bins.
        super().__init__(config, slaney_mel(config.frame + 1, config.bands, 2 * config.sample_rate)[: config.frame // 2 + 1])
        if encoder is None:
            encoder = load_whisper() if config.as_installed else WhisperEncoder(config.width, config.heads, config.layers)
        self.encoder = encoder
        size = 2 * config.width * config.layers
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("gain", torch.ones(size))
        self.body = nn.Sequential(
            nn.Dropout(0.3),
            *(nn.Linear(size, config.hidden), nn.GELU(), nn.Dropout(0.5)),
            *(nn.Linear(config.hidden, config.summary), nn.GELU(), nn.Dropout(0.5)),
        )
        self.classifier = nn.Linear(config.summary, len(config.labels))

    def installed(self) -> dict[str, Tensor]:
        if not self.config.as_installed:
            return {}
        return {f"encoder.{name}": value for name, value in self.encoder.state_dict().items()}

    def pooled_layers(self, mel: Tensor, heard: Tensor) -> Tensor:
        """Mean and deviation over the call's tokens of every layer's states: (N, 2 * layers * width)."""
        return torch.cat([self.pooled(states, heard) for states in self.encoder.encode(mel.transpose(1, 2))], dim=1)

    def summary(self, mel: Tensor, heard: Tensor) -> Tensor:
        return self.summarised(self.pooled_layers(mel, heard))

    def summarised(self, pooled: Tensor) -> Tensor:
        """Pooled layers (N, 2 * layers * width) to what the classifier sees (N, summary)."""
        return self.body((pooled - self.mean) * self.gain)

    def set_statistics(self, pooled: Tensor) -> None:
        """Standardises pooled layers (n, 2 * layers * width) as these are."""
        self.mean.copy_(pooled.mean(dim=0))
        self.gain.copy_(1.0 / pooled.std(dim=0, correction=0).clamp(min=1e-6))
