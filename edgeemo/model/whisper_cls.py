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
    """Whisper's encoder (Radford et al. 2022), a learned mean of its layers, mean and deviation over time, one linear layer."""

    kind, title = "whisper-tiny-cls", "Whisper-Tiny + CLS, emotion"
    config: WhisperConfig

    def __init__(self, config: WhisperConfig | None = None, encoder: WhisperEncoder | None = None) -> None:
        config = config or WhisperConfig()
        # Whisper's filters at 16 kHz; 8 kHz audio has nothing above the first half of their bins.
        super().__init__(config, slaney_mel(config.frame + 1, config.bands, 2 * config.sample_rate)[: config.frame // 2 + 1])
        self.encoder = encoder or WhisperEncoder(config.width, config.heads, config.layers)
        self.layer_weight = nn.Parameter(torch.zeros(config.layers))
        self.norm = nn.LayerNorm(2 * config.width)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(2 * config.width, len(config.labels))

    def classify(self, mel: Tensor, heard: Tensor) -> Tensor:
        states = self.encoder.encode(mel.transpose(1, 2))
        share = torch.softmax(self.layer_weight, dim=0)
        x = sum((s * share[i] for i, s in enumerate(states)), torch.zeros(()))
        return self.classifier(self.dropout(self.norm(self.pooled(x, heard))))
