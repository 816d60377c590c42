"""Whisper-Tiny + CLS: Whisper's encoder over the window, fine-tuned, with a classifier on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeemo.model.whisper import WhisperEncoder, slaney_mel
from edgeemo.model.windowed import WindowConfig, WindowedModel


@dataclass(frozen=True)
class WhisperConfig(WindowConfig):
    width: int = 384
    heads: int = 6
    layers: int = 4


class WhisperTinyCls(WindowedModel):
    """Whisper's encoder (Radford et al. 2022); mean and deviation over time of every layer, standardised; one linear layer."""

    kind, title = "whisper-tiny-cls", "Whisper-Tiny + CLS, emotion"
    config: WhisperConfig
    mean: Tensor
    gain: Tensor

    def __init__(self, config: WhisperConfig | None = None, encoder: WhisperEncoder | None = None) -> None:
        config = config or WhisperConfig()
        # Whisper's filters at 16 kHz; 8 kHz audio has nothing above the first half of their bins.
        super().__init__(config, slaney_mel(config.frame + 1, config.bands, 2 * config.sample_rate)[: config.frame // 2 + 1])
        self.encoder = encoder or WhisperEncoder(config.width, config.heads, config.layers)
        size = 2 * config.width * config.layers
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("gain", torch.ones(size))
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(size, len(config.labels))

    def pooled_layers(self, mel: Tensor, heard: Tensor) -> Tensor:
        """Mean and deviation over the call's tokens of every layer's states: (N, 2 * layers * width)."""
        return torch.cat([self.pooled(states, heard) for states in self.encoder.encode(mel.transpose(1, 2))], dim=1)

    def classify(self, mel: Tensor, heard: Tensor) -> Tensor:
        return self.classifier(self.dropout((self.pooled_layers(mel, heard) - self.mean) * self.gain))

    def set_head(self, mean: Tensor, std: Tensor, weight: Tensor, bias: Tensor) -> None:
        """A linear classifier of standardised pooled layers: ``weight`` (2 * layers * width, labels)."""
        self.mean.copy_(mean)
        self.gain.copy_(1.0 / std)
        with torch.no_grad():
            self.classifier.weight.copy_(weight.T)
            self.classifier.bias.copy_(bias)
