"""The layers of the dual path. Every one works on S steps at once: S = 1 is the exported step, S > 1 is training.

Shapes: B streams, S steps, d = d_model. Tokens are (B, 3 S, d), step-tokens (B, S, d).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DROPOUT = 0.1  # training only
MASKED = -1e4  # added to a score: exp() of it is exactly zero, and finite where a whole row were masked


def windows(x: Tensor, size: int, stride: int, steps: int) -> Tensor:
    """(B, T, d) to (B * S, size, d): the window of each step. One step's window is the input itself."""
    if steps == 1:
        return x
    return x.unfold(1, size, stride).transpose(2, 3).reshape(-1, size, x.shape[2])


def chunk_causal(bias: Tensor, new: int, steps: int) -> Tensor:
    """Biases of each step's window (B * S, h, new, past + new) laid out over the whole utterance, masked outside the windows:
    (B, h, new * S, past + new * S). One step's window is the whole utterance."""
    if steps == 1:
        return bias
    _, heads, _, size = bias.shape
    bias = bias.reshape(-1, steps, heads, new, size).permute(0, 2, 1, 3, 4)
    full = bias.new_full((bias.shape[0], heads, new * steps, size + new * (steps - 1)), MASKED)
    step = torch.arange(steps, device=bias.device).reshape(-1, 1, 1)
    rows = step * new + torch.arange(new, device=bias.device).reshape(1, -1, 1)
    columns = step * new + torch.arange(size, device=bias.device).reshape(1, 1, -1)
    full[:, :, rows, columns] = bias
    return full


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, heads: int, pool: Tensor | None = None) -> Tensor:
    """Multi-head attention: q (N, nq, d), k and v (N, nk, d), bias broadcastable to (N, heads, nq, nk); gives (N, nq, d).

    With ``pool`` (N, 1, nq, 1), weights that sum to 1, the weighted mean over queries instead, (N, 1, d). The mean is taken of
    the attention weights, before the values: one row is multiplied with them instead of nq.
    """
    nq, nk, d = q.shape[1], k.shape[1], q.shape[2]
    width = d // heads

    def split(x: Tensor, n: int) -> Tensor:
        return x.reshape(-1, n, heads, width).transpose(1, 2)

    scores = split(q, nq) @ split(k, nk).transpose(2, 3) * width**-0.5
    weights = torch.softmax(scores if bias is None else scores + bias, dim=-1)
    if pool is not None:
        weights, nq = (weights * pool).sum(dim=2, keepdim=True), 1
    return (weights @ split(v, nk)).transpose(1, 2).reshape(-1, nq, d)


class FeedForward(nn.Module):
    def __init__(self, d: int, hidden: int, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.up = nn.Linear(d, hidden)
        self.down = nn.Linear(hidden, d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


class CachedAttention(nn.Module):
    """Self-attention of each step's new tokens over ``past`` earlier tokens and themselves, with a bias by distance."""

    def __init__(self, d: int, heads: int, past: int, new: int) -> None:
        super().__init__()
        self.heads, self.past, self.new = heads, past, new
        self.norm = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.distance = nn.Parameter(torch.zeros(heads, new, past + new))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, k_past: Tensor, v_past: Tensor, mask: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, new * S, d), pasts (B, past, d), mask (B * S, 1, 1, past + new); gives x and the next pasts."""
        d = x.shape[2]
        q, k, v = torch.split(self.qkv(self.norm(x)), d, dim=2)
        k, v = torch.cat([k_past, k], dim=1), torch.cat([v_past, v], dim=1)
        y = self.out(attend(q, k, v, chunk_causal(mask + self.distance, self.new, steps), self.heads))
        return x + self.dropout(y), k[:, -self.past :], v[:, -self.past :]


class EmotionConv(nn.Module):
    """Grouped causal 1 x 3 convolution over tokens, residual: local spectral movement, before any attention."""

    def __init__(self, d: int, groups: int, lookback: int) -> None:
        super().__init__()
        self.lookback = lookback
        self.conv = nn.Conv1d(d, d, lookback + 1, groups=groups)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat([past, x], dim=1)
        y = self.conv(seen.transpose(1, 2)).transpose(1, 2)
        return x + F.gelu(y), seen[:, -self.lookback :]


class Subsample(nn.Module):
    """Two stride-2, kernel-3 causal convolutions: 4 frames to a token, 3 frames of look-back.

    The batch norms are for training; ``fold`` multiplies them into the convolutions before export.
    """

    def __init__(self, bands: int, d: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(bands, d, 3, stride=2)
        self.conv2 = nn.Conv1d(d, d, 3, stride=2)
        self.norm1: nn.Module = nn.BatchNorm1d(d)
        self.norm2: nn.Module = nn.BatchNorm1d(d)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 12 S + 3, bands) to (B, 3 S, d)."""
        y = F.gelu(self.norm1(self.conv1(frames.transpose(1, 2))))
        return F.gelu(self.norm2(self.conv2(y))).transpose(1, 2)

    def fold(self) -> None:
        for conv, name in ((self.conv1, "norm1"), (self.conv2, "norm2")):
            norm = getattr(self, name)
            if isinstance(norm, nn.BatchNorm1d):
                assert norm.running_mean is not None and norm.running_var is not None and conv.bias is not None
                gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                conv.weight.data.mul_(gain[:, None, None])
                conv.bias.data = (conv.bias - norm.running_mean) * gain + norm.bias
                setattr(self, name, nn.Identity())


class DualPathBlock(nn.Module):
    """A local layer over tokens, a global layer over step-tokens; pooled tokens go up, the step-token comes back down."""

    def __init__(self, d: int, heads: int, ffn: tuple[int, int], past: tuple[int, int], tokens: int) -> None:
        """``ffn`` and ``past`` are (local, global): hidden widths, and tokens or step-tokens seen before the step."""
        super().__init__()
        self.tokens = tokens
        self.local_attention = CachedAttention(d, heads, past[0], tokens)
        self.local_ffn = FeedForward(d, ffn[0])
        self.up_norm, self.up = nn.LayerNorm(d), nn.Linear(d, d)
        self.global_attention = CachedAttention(d, heads, past[1], 1)
        self.global_ffn = FeedForward(d, ffn[1])
        self.down_norm, self.down = nn.LayerNorm(d), nn.Linear(d, d)

    def forward(
        self, x: Tensor, g: Tensor | None, past: list[Tensor], local_mask: Tensor, global_mask: Tensor, steps: int
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """``past`` is [local k, local v, global k, global v]; g is None in the first block, which has nothing above it."""
        d = x.shape[2]
        x, local_k, local_v = self.local_attention(x, past[0], past[1], local_mask, steps)
        x = self.local_ffn(x)
        pooled = x.reshape(-1, steps, self.tokens, d).mean(dim=2)
        up = self.up(self.up_norm(pooled))
        g = up if g is None else g + up
        g, global_k, global_v = self.global_attention(g, past[2], past[3], global_mask, steps)
        g = self.global_ffn(g)
        down = self.down(self.down_norm(g)).reshape(-1, steps, 1, d)
        x = (x.reshape(-1, steps, self.tokens, d) + down).reshape(-1, steps * self.tokens, d)
        return x, g, [local_k, local_v, global_k, global_v]


class EmotionHead(nn.Module):
    """4-head attention over the last 640 ms, length mask, mean pool, classes: P(c|X) = softmax_c(1/T sum_t w_c . h_t).

    The mean commutes with the values, the output projection and w_c, so all run once per step instead of once per token.
    """

    def __init__(self, d: int, heads: int, past: int, new: int, classes: int) -> None:
        super().__init__()
        self.heads, self.past, self.new = heads, past, new
        self.norm = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.classifier = nn.Linear(d, classes)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, past: list[Tensor], mask: Tensor, valid: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
        """x (B, 3 S, d), past [q, k, v] each (B, past, d), mask (B * S, 1, 1, 12), valid (B * S, 12, 1) of 0 or 1.

        Gives logits (B * S, classes) and the next pasts.
        """
        d, size = x.shape[2], self.past + self.new
        new = torch.split(self.qkv(self.norm(x)), d, dim=2)
        seen = [torch.cat([p, n], dim=1) for p, n in zip(past, new, strict=True)]
        q, k, v = (windows(s, size, self.new, steps) for s in seen)
        pool = (valid / valid.sum(dim=1, keepdim=True)).reshape(-1, 1, size, 1)
        pooled = attend(q, k, v, mask, self.heads, pool)
        return self.classifier(self.dropout(self.out(pooled.reshape(-1, d)))), [s[:, -self.past :] for s in seen]
