"""MFCC + BiLSTM: 39 cepstral features, a bidirectional LSTM over the window, mean and deviation over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgeemo.model.frontend import slaney_mel
from edgeemo.model.names import MFCC_BILSTM
from edgeemo.model.windowed import WindowConfig, WindowedModel

SIDES = ("", "_reverse")  # of the LSTM, as torch names them


@dataclass(frozen=True)
class MfccConfig(WindowConfig):
    bands: int = 40
    range_decades: float = 5.0
    cepstra: int = 13
    stacked: int = 4  # frames to a token of the LSTM: 40 ms
    hidden: int = 160  # of each direction


class MfccBiLstm(WindowedModel):
    """13 cepstra with their first and second differences, standardised; one BiLSTM; one linear layer."""

    kind, title = MFCC_BILSTM, "MFCC + BiLSTM, emotion"
    config: MfccConfig
    dct: Tensor
    mean: Tensor
    gain: Tensor

    def __init__(self, config: MfccConfig | None = None) -> None:
        c = config or MfccConfig()
        super().__init__(c, slaney_mel(c.frame // 2 + 1, c.bands, c.sample_rate))
        n, k = np.arange(c.bands), np.arange(c.cepstra)
        dct = np.cos(np.pi * np.outer(n + 0.5, k) / c.bands) * np.sqrt(2 / c.bands)  # DCT-II
        self.register_buffer("dct", torch.from_numpy(dct.astype(np.float32)), persistent=False)
        # Standardise each feature; set once from training speech (set_statistics), part of the checkpoint.
        self.register_buffer("mean", torch.zeros(3 * c.cepstra))
        self.register_buffer("gain", torch.ones(3 * c.cepstra))
        self.folded = False
        self.lstm = nn.LSTM(3 * c.cepstra * c.stacked, c.hidden, bidirectional=True, batch_first=True)
        self.norm = nn.LayerNorm(4 * c.hidden)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(4 * c.hidden, len(c.labels))

    def cepstra(self, mel: Tensor) -> Tensor:
        """Scaled log-mel (N, frames, bands) to 39 features, not yet standardised (N, frames, 39)."""
        static = mel @ self.dct
        first = self._differences(static)
        return torch.cat([static, first, self._differences(first)], dim=2)

    def _differences(self, x: Tensor) -> Tensor:
        """Regression over five frames (HTK book, 5.9), the ends repeated."""
        first, last = x[:, :1], x[:, -1:]
        x = torch.cat([first, first, x, last, last], dim=1)
        return 0.2 * (x[:, 4:] - x[:, :-4]) + 0.1 * (x[:, 3:-1] - x[:, 1:-3])

    def set_statistics(self, features: Tensor) -> None:
        """From features (N, 39) of training speech as ``cepstra`` makes them."""
        self.mean.copy_(features.mean(dim=0))
        self.gain.copy_(1.0 / features.std(dim=0).clamp(min=1e-3))

    def summary(self, mel: Tensor, heard: Tensor) -> Tensor:
        c = self.config
        x = ((self.cepstra(mel) - self.mean) * self.gain).reshape(-1, c.ring_frames // c.stacked, 3 * c.cepstra * c.stacked)
        y = self._unrolled(x) if self.folded else self.lstm(x)[0]
        return self.dropout(self.norm(self.pooled(y, heard)))

    def fold(self) -> None:
        """From here on the LSTM runs unrolled, its weights as the products take them."""
        for side in SIDES:
            for mine, theirs in (("input", "weight_ih"), ("recurrent", "weight_hh")):
                self.register_buffer(
                    f"lstm_{mine}{side}", getattr(self.lstm, f"{theirs}_l0{side}").detach().T.contiguous(), False
                )
        self.folded = True

    def _unrolled(self, x: Tensor) -> Tensor:
        """The LSTM as plain products and activations, for exporters and compilers: (N, T, in) to (N, T, 2 hidden)."""
        hidden, time = self.config.hidden, x.shape[1]
        sides = []
        for side, order in zip(SIDES, (range(time), reversed(range(time))), strict=True):
            bias = getattr(self.lstm, f"bias_ih_l0{side}") + getattr(self.lstm, f"bias_hh_l0{side}")
            driven = x @ getattr(self, f"lstm_input{side}") + bias
            recurrent = getattr(self, f"lstm_recurrent{side}")
            out: dict[int, Tensor] = {}
            h = cell = None  # zero before the first token
            for t in order:
                gates = driven[:, t : t + 1].reshape(-1, 4 * hidden)  # a slice: compilers take an index for one that varies
                gates = gates if h is None else gates + h @ recurrent
                i, f, g, o = torch.split(gates, hidden, dim=1)
                new = torch.sigmoid(i) * torch.tanh(g)
                cell = new if cell is None else torch.sigmoid(f) * cell + new
                out[t] = h = torch.sigmoid(o) * torch.tanh(cell)
            sides.append(torch.stack([out[t] for t in range(time)], dim=1))
        return torch.cat(sides, dim=2)
