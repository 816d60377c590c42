"""Whisper's encoder made to stream: its convolutions, its layers with a local and a global path, a summary over the call.

Shapes as in layers.py: B streams, S steps, d = d_model; tokens of 40 ms are (B, 4 S, d).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.model.layers import FeedForward, attend, chunk_causal

LAYER_STATES = ("local_k", "local_v", "global_k", "global_v")
ROUND = 1504  # of Whisper's positions of 20 ms, 188 steps
MIN_WEIGHT = 1e-4  # of a summary; a call of nothing but digital silence has none
NORM_REACH = 4.0  # deviations that a normalised channel reaches, about
FARTHEST = 4.0  # deviations from its mean that a summary counts: a first step may be anything

Rotation = tuple[Tensor, Tensor]


class Stem(nn.Module):
    """Whisper's two convolutions, causal, and a token for each two of their outputs: 4 frames to a token, 3 of look-back."""

    def __init__(self, bands: int, d: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(bands, d, 3)
        self.conv2 = nn.Conv1d(d, d, 3, stride=2)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 16 S + 3, bands) to (B, 4 S, d)."""
        y = F.gelu(self.conv2(F.gelu(self.conv1(frames.transpose(1, 2))))).transpose(1, 2)
        _, tokens, d = y.shape
        return y.reshape(-1, tokens // 2, 2, d).mean(dim=2)


class Positions(nn.Module):
    """Whisper's sinusoids, each at the nearest frequency that comes round in half a minute: a call may last an hour, and between
    tokens of one window nothing ever jumps. Those slower than that stand still where a call begins.

    The state is the sinusoids at the first token of the step less those at a call's begin, so that zero is the begin.
    """

    turn: Tensor
    begin: Tensor

    def __init__(self, d: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.of_a_step: tuple[Rotation, Rotation] | None = None
        frequency = 10000.0 ** (-torch.arange(d // 2, dtype=torch.float64) / (d // 2 - 1))
        unit = 2.0 * math.pi / ROUND
        self.register_buffer("turn", torch.round(frequency / unit) * unit, persistent=False)
        self.register_buffer("begin", torch.cat([torch.zeros(d // 2), torch.ones(d // 2)]), persistent=False)

    def fold(self) -> None:
        """From here on the angles of a single step are constants: not every converter folds the sine of one."""
        self.of_a_step = self._rotations(1)

    def forward(self, past: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """``past`` (B, d) to the tokens' positions (B, tokens * S, d) and the next state."""
        tokens, end = self.of_a_step if self.of_a_step and steps == 1 else self._rotations(steps)
        now = past + self.begin
        after = self._turned(now, *end) - self.begin
        return self._turned(now, *tokens), after.reshape(-1, now.shape[1])

    def _rotations(self, steps: int) -> tuple[Rotation, Rotation]:
        """How far the tokens of so many steps are turned on, and the end of the last."""
        at = torch.arange(self.tokens * steps, dtype=torch.float64) * 2.0 + 0.5  # a token is two of Whisper's
        both = torch.cos(self.turn / 2.0)  # the mean of two neighbours is the sinusoid between them, a little smaller
        end = torch.tensor([[2.0 * self.tokens * steps]], dtype=torch.float64)
        return _rotation(at[:, None] * self.turn, both), _rotation(end * self.turn, torch.ones_like(both))

    def _turned(self, now: Tensor, same: Tensor, crossed: Tensor) -> Tensor:
        """Sinusoids (B, d) turned on by a rotation of n angles: (B, n, d)."""
        half = now.shape[1] // 2
        other = torch.cat([now[:, half:], now[:, :half]], dim=1)
        return now[:, None] * same + other[:, None] * crossed


def _rotation(angle: Tensor, gain: Tensor) -> Rotation:
    """Factors (n, d) of sinusoids and of those a quarter away that turn them on by angles (n, d / 2)."""
    cosine, sine = torch.cos(angle) * gain, torch.sin(angle) * gain
    return torch.cat([cosine, cosine], dim=1).float(), torch.cat([sine, -sine], dim=1).float()


class CachedHeads(nn.Module):
    """Some of a layer's heads: each step's new tokens look at ``past`` earlier ones and themselves, with a bias by distance."""

    def __init__(self, d: int, heads: int, width: int, past: int, new: int) -> None:
        super().__init__()
        self.heads, self.past, self.new = heads, past, new
        self.qkv = nn.Linear(d, 3 * width)
        self.out = nn.Linear(width, d)
        self.distance = nn.Parameter(torch.zeros(heads, new, past + new))

    def forward(self, x: Tensor, k_past: Tensor, v_past: Tensor, mask: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, new * S, d), pasts (B, past, width), mask (B * S, 1, 1, past + new); gives what to add, and the next pasts."""
        q, k, v = torch.split(self.qkv(x), k_past.shape[2], dim=2)
        k, v = torch.cat([k_past, k], dim=1), torch.cat([v_past, v], dim=1)
        y = self.out(attend(q, k, v, chunk_causal(mask + self.distance, self.new, steps), self.heads))
        return y, k[:, -self.past :], v[:, -self.past :]


class EncoderLayer(nn.Module):
    """A layer of Whisper's encoder as a dual path: half of its heads look at 320 ms, half at 4 s.

    Without dropout, as it was trained: with it a classifier of deviations learns the noise, and labels bend the encoder to that.
    """

    def __init__(self, d: int, heads: int, ffn: int, past: tuple[int, int], tokens: int) -> None:
        """``past``: tokens seen before the step by local and by global heads."""
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.local_path, self.global_path = (CachedHeads(d, heads // 2, d // 2, p, tokens) for p in past)
        self.ffn = FeedForward(d, ffn, dropout=0.0)

    def forward(
        self, x: Tensor, past: list[Tensor], local_mask: Tensor, global_mask: Tensor, steps: int
    ) -> tuple[Tensor, list[Tensor]]:
        """``past`` is [local k, local v, global k, global v]."""
        y = self.norm(x)
        near, local_k, local_v = self.local_path(y, past[0], past[1], local_mask, steps)
        far, global_k, global_v = self.global_path(y, past[2], past[3], global_mask, steps)
        return self.ffn(x + near + far), [local_k, local_v, global_k, global_v]

    @torch.no_grad()
    def equalise(self) -> None:
        """Brings channels between a norm and its products, and between values and the heads' outputs, to like ranges on both
        sides: the same function, and in INT8, with one scale for all of a tensor, a better one (Nagel et al. 2019)."""
        for norm, readers in ((self.norm, [self.local_path.qkv, self.global_path.qkv]), (self.ffn.norm, [self.ffn.up])):
            reach = norm.bias.abs() + NORM_REACH * norm.weight.abs()
            weight = torch.stack([r.weight.abs().amax(dim=0) for r in readers]).amax(dim=0)
            gain = _even(reach, weight)
            for part in (norm.weight, norm.bias):
                part.div_(gain)
            for reader in readers:
                reader.weight *= gain
        for path in (self.local_path, self.global_path):
            values = slice(-path.out.in_features, None)
            gain = _even(path.qkv.weight[values].norm(dim=1), path.out.weight.norm(dim=0))
            path.qkv.weight[values] /= gain[:, None]
            path.qkv.bias[values] /= gain
            path.out.weight *= gain


def _even(before: Tensor, after: Tensor) -> Tensor:
    """Gains (channels,), about 1 on the whole, to divide channels by that reach ``before`` and multiply their weights ``after``
    with."""
    gain = torch.sqrt(before.clamp(min=1e-3) / after.clamp(min=1e-4))
    return (gain / gain.mean()).clamp(0.05, 20.0)


class Summary(nn.Module):
    """Mean and deviation over the call of its tokens, older steps less, a step by the eighth root of its energy.

    So a pause counts for little, whatever the level of the line; nothing has to be known of what comes later.
    """

    def __init__(self, decay: float, tokens: int) -> None:
        super().__init__()
        self.decay, self.tokens = decay, tokens

    def forward(self, layers: list[Tensor], energy: Tensor, past: list[Tensor], steps: int) -> tuple[Tensor, list[Tensor]]:
        """Each layer (B, tokens * S, d), energy (B, S), past [sums (B, 2 n), weight (B, 1)], n the layers' width together; gives
        means and deviations (B, S, 2 n) and the next past."""
        means = []
        for part in (layers, [x * x for x in layers]):
            means += [x.reshape(-1, steps, self.tokens, x.shape[2]).mean(dim=2) for x in part]
        weight = torch.sqrt(torch.sqrt(torch.sqrt(energy))).reshape(-1, steps, 1)
        sums, total = self._decayed(torch.cat(means, dim=2) * weight, past[0], steps), self._decayed(weight, past[1], steps)
        mean, square = torch.split(sums / torch.clamp(total, min=MIN_WEIGHT), past[0].shape[1] // 2, dim=2)
        deviation = torch.sqrt(torch.clamp(square - mean * mean, min=1e-5))
        return torch.cat([mean, deviation], dim=2), [sums[:, -1:].reshape(-1, past[0].shape[1]), total[:, -1:].reshape(-1, 1)]

    def _decayed(self, new: Tensor, before: Tensor, steps: int) -> Tensor:
        """Decayed sums up to each step (B, S, n): of ``new`` (B, S, n), and what there was before (B, n)."""
        if steps == 1:
            return (before * self.decay).reshape(-1, 1, new.shape[2]) + new
        n = torch.arange(steps, dtype=torch.float32, device=new.device)
        decay = torch.tril(self.decay ** (n[:, None] - n[None, :]).clamp(min=0))
        return decay @ new + (self.decay ** (n + 1))[:, None] * before[:, None]


class SummaryHead(nn.Module):
    """A classifier with two hidden layers on standardised summaries: what tells emotions apart is not the same in every language,
    and a linear one cannot ask which it is."""

    mean: Tensor
    gain: Tensor

    def __init__(self, size: int, hidden: int, summary: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("gain", torch.ones(size))
        self.body = nn.Sequential(
            nn.Dropout(0.3),
            *(nn.Linear(size, hidden), nn.GELU(), nn.Dropout(0.5)),
            *(nn.Linear(hidden, summary), nn.GELU(), nn.Dropout(0.5)),
        )
        self.classifier = nn.Linear(summary, classes)

    def summarised(self, pooled: Tensor) -> Tensor:
        """Input of the classifier, from pooled layers (..., size)."""
        return self.body(torch.clamp((pooled - self.mean) * self.gain, -FARTHEST, FARTHEST))

    def forward(self, pooled: Tensor) -> Tensor:
        return self.classifier(self.summarised(pooled))

    def set_statistics(self, pooled: Tensor) -> None:
        """Standardises pooled layers (n, size) as these are."""
        self.mean.copy_(pooled.mean(dim=0))
        self.gain.copy_(1.0 / pooled.std(dim=0, correction=0).clamp(min=1e-6))
