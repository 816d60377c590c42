"""PCM to level-normalised log filterbank frames; every operation is standard ONNX.

The 256-point DFT is split as 16 x 16 (Cooley-Tukey): with n = 16 n1 + n2 and k = k1 + 16 k2,

    X[k1 + 16 k2] = sum_n2 (sum_n1 x[16 n1 + n2] W16^(n1 k1)) * W256^(n2 k1) W16^(n2 k2)

The input is real, so k1 = 0..8 is enough (X[256 - k] is the conjugate of X[k]), and a 200-sample window needs 13 of the 16
rows n1. The inner sums of k1 = 0 and 8 are real themselves: together they are one complex value, so that there are eight of those
to a column and eight outer sums, which give every bin once; bins 0 and 128, real both, share a place, and no band has a weight
there. The inner sum is one small matrix product, the outer one a product per group that holds the twiddle factors, written as a
grouped convolution over n2: about 12 k MAC a frame where a dense real DFT costs 51 k, and nothing but products in between.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from edgeemo.model.config import CallConfig

RADIX = 16
WHISPER_BANDS = 80  # up to 8 kHz
GROUPS = RADIX // 2  # k1 = 0 with 8, and 1..7
POWER_FLOOR = 1e-10  # full scale squared; digital silence
BLOCK = 320  # samples, after which frames lie the same again


def frame_starts(config: CallConfig) -> list[int]:
    """Starts of a block's frames: three hops of 13 1/3 ms, or four of 10 ms."""
    hops = config.frames_per_step * BLOCK // config.step_samples
    return [i * BLOCK // hops for i in range(hops)]


def slaney_mel(bins: int, bands: int, rate: int) -> np.ndarray:
    """Mel filters on Slaney's scale (linear below 1 kHz, logarithmic above), area 1; float32 (bins, bands)."""
    step = np.log(6.4) / 27.0
    to_mel = lambda f: np.where(f < 1000.0, f * 3 / 200, 15.0 + np.log(np.maximum(f, 1.0) / 1000.0) / step)  # noqa: E731
    to_hz = lambda m: np.where(m < 15.0, m * 200 / 3, 1000.0 * np.exp(step * (m - 15.0)))  # noqa: E731
    edges = to_hz(np.linspace(0.0, to_mel(np.array(rate / 2.0)), bands + 2))
    f = np.linspace(0.0, rate / 2, bins)[:, None]
    rise = (f - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - f) / (edges[2:] - edges[1:-1])
    return (np.maximum(0.0, np.minimum(rise, fall)) * 2.0 / (edges[2:] - edges[:-2])).astype(np.float32)


def whisper_filterbank(config: CallConfig) -> np.ndarray:
    """The filters of Whisper's 80 that reach under 4 kHz, 63, and one that is empty as those above are; the largest weight
    about 1; float32 (n_fft // 2 + 1, bands)."""
    filters = slaney_mel(config.n_fft + 1, WHISPER_BANDS, 2 * config.sample_rate)
    return filters[: config.n_fft // 2 + 1, : config.bands] / filters.max()


def mel_filterbank(config: CallConfig) -> np.ndarray:
    """Triangular mel filters (O'Shaughnessy's mel scale), peak 1; float32 of shape (n_fft // 2 + 1, bands)."""
    to_mel = lambda f: 2595.0 * np.log10(1.0 + f / 700.0)  # noqa: E731
    edges_mel = np.linspace(to_mel(60.0), to_mel(config.sample_rate / 2), config.bands + 2)
    edges = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins = np.arange(config.n_fft // 2 + 1) * config.sample_rate / config.n_fft
    rise = (bins[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[None, 2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rise, fall))
    # A low band is narrower than a bin: let it take its nearest bin instead of nothing.
    for band in np.flatnonzero(filters.sum(axis=0) < 0.5):
        filters[np.argmin(np.abs(bins - edges[band + 1])), band] += 0.5
    return filters.astype(np.float32)


def _dft_factors(config: CallConfig) -> dict[str, Tensor]:
    """The constants of the 16 x 16 split: inner DFT, outer DFTs with twiddle factors, and which bin is where.

    ``inner_dft`` (n1, 2 group + part), ``outer_dft`` (32 group + 16 part + place, part in, n2), part 0 real and 1 imaginary;
    ``bin_of`` (16 group + place).
    """
    rows, middle = math.ceil(config.window / RADIX), config.n_fft // 2
    n1, n2 = np.arange(rows), np.arange(RADIX)
    inner = np.exp(-2j * np.pi * np.outer(n1, np.arange(GROUPS)) / RADIX)
    inner[:, 0] = 1.0 + 1j * np.cos(np.pi * n1)  # k1 = 0, and as the imaginary part k1 = 8
    # Places k2 of groups 1..7 hold k1 + 16 k2; those of the first group 16 k2 from its real input, then 8 + 16 k2 from the other.
    k = np.arange(GROUPS)[:, None] + RADIX * np.arange(RADIX)
    k[0, GROUPS:] = GROUPS + RADIX * np.arange(GROUPS)
    turn = np.exp(-2j * np.pi * k[:, :, None] * n2 / config.n_fft)  # (group, place, n2)
    outer = np.stack([np.stack([turn.real, -turn.imag], axis=2), np.stack([turn.imag, turn.real], axis=2)], axis=1)
    for part, values in ((0, turn.real[0]), (1, turn.imag[0])):
        outer[0, part, :GROUPS, 0], outer[0, part, :GROUPS, 1] = values[:GROUPS], 0.0
        outer[0, part, GROUPS:, 0], outer[0, part, GROUPS:, 1] = 0.0, values[GROUPS:]
    outer[0, 1, 0, 0] = np.cos(np.pi * n2)  # bin 0 has no imaginary part: bin 128 is there
    bin_of = np.where(k <= middle, k, config.n_fft - k).reshape(-1)
    window = np.zeros(rows * RADIX)
    window[: config.window] = np.hanning(config.window + 1)[:-1]
    as32 = lambda x: torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))  # noqa: E731
    return {
        "window": as32(window),
        "inner_dft": as32(np.stack([inner.real, inner.imag], axis=2).reshape(rows, 2 * GROUPS)),
        "outer_dft": as32(outer.reshape(GROUPS * 2 * RADIX, 2, RADIX)),
        "bin_of": torch.from_numpy(bin_of.astype(np.int64)),
    }


class FilterbankFrontend(nn.Module):
    """PCM with history (B, history + S * 1280) float32 in [-1, 1] to features (B, 12 S, 64)."""

    window: Tensor
    support: Tensor
    inner_dft: Tensor
    outer_dft: Tensor
    bin_of: Tensor
    band_mean: Tensor
    band_gain: Tensor
    filterbank: Tensor | None

    def __init__(self, config: CallConfig) -> None:
        super().__init__()
        self.config = config
        self.starts = frame_starts(config)
        for name, value in _dft_factors(config).items():
            self.register_buffer(name, value, persistent=False)
        mel = torch.from_numpy(whisper_filterbank(config) if config.slaney else mel_filterbank(config))
        # softplus keeps the learned filters non-negative; its inverse starts them at mel.
        start = mel.clamp(min=config.filter_floor or 1e-4)
        support = ((mel > 0) | (config.filter_floor > 0)).float()
        support[[0, -1]] = 0.0  # the bins that share a place
        self.register_buffer("support", support, persistent=False)
        self.filters = nn.Parameter(start + torch.log(-torch.expm1(-start)))
        self.register_buffer("filterbank", None, persistent=False)
        # Standardises each band; set once from training speech (set_statistics), part of the checkpoint.
        self.register_buffer("band_mean", torch.full((config.bands,), -3.0))
        self.register_buffer("band_gain", torch.full((config.bands,), 1.0 / 3.0))

    def set_statistics(self, features: Tensor) -> None:
        """Sets the bands' mean and gain from features (N, bands) made with the present ones."""
        mean, std = features.mean(dim=0), features.std(dim=0)
        self.band_mean += mean / self.band_gain
        self.band_gain /= std

    def freeze(self) -> None:
        """Computes the filterbank once, so that an exported step holds it as a constant. Training ends here."""
        self.filterbank = self.weights().detach()

    @property
    def history(self) -> int:
        """Samples kept from before the step: what its first frame still needs, the last frame ending where the step ends,
        rounded up to fours so that history and step are joined by whole vectors."""
        return -(-self._needed // 4) * 4

    @property
    def _needed(self) -> int:
        return self.starts[-1] - BLOCK + self.window.numel()

    def weights(self) -> Tensor:
        """Non-negative filterbank on the 128 values of the split DFT: (128, bands)."""
        if self.filterbank is not None:
            return self.filterbank
        return (nn.functional.softplus(self.filters) * self.support)[self.bin_of]

    def frames(self, pcm: Tensor, steps: int) -> Tensor:
        size, hop = self.window.numel(), BLOCK
        pcm = pcm[:, self.history - self._needed :]
        if steps == 1:  # plain slices: the exported graph then needs no gather
            starts = [hop * block + start for block in range(self.config.step_samples // hop) for start in self.starts]
            return torch.stack([pcm[:, s : s + size] for s in starts], dim=1)
        count = steps * self.config.step_samples // hop
        parts = [pcm[:, start : start + size + hop * (count - 1)].unfold(1, size, hop) for start in self.starts]
        return torch.stack(parts, dim=2).reshape(-1, count * len(self.starts), size)

    def power(self, frames: Tensor) -> Tensor:
        """Squared magnitude of the windowed frames, (B, T, 128): bin ``bin_of[i]`` at index i, but for bins 0 and
        128, whose sum is at 0."""
        count = frames.shape[1]
        x = (frames * self.window).reshape(-1, count, self.window.numel() // RADIX, RADIX).transpose(2, 3)
        y = (x @ self.inner_dft).reshape(-1, count * RADIX, 2 * GROUPS).transpose(1, 2)
        z = nn.functional.conv1d(y, self.outer_dft, stride=RADIX, groups=GROUPS).transpose(1, 2)
        z = z.reshape(-1, count, GROUPS, 2 * RADIX)
        real, imaginary = z[..., :RADIX], z[..., RADIX:]
        return (real * real + imaginary * imaginary).reshape(-1, count, GROUPS * RADIX)

    def forward(self, pcm: Tensor, level: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features, the next level state, each step's energy over the level (B, S), and that energy (B, S).

        ``level`` (B, 2) holds the decayed sum of the steps' mean band energies and the decayed count: their ratio is a
        running level that is unbiased from the first step, and dividing by it removes the caller's gain causally.
        """
        config = self.config
        energy = self.power(self.frames(pcm, steps)) @ self.weights()
        per_step = energy.reshape(-1, steps, config.frames_per_step * config.bands).mean(dim=2)
        if steps == 1:
            sums = level[:, 0:1] * config.level_decay + per_step
            counts = level[:, 1:2] * config.level_decay + 1.0
        else:  # the same recursion for all steps at once, as one triangular product
            n = torch.arange(steps, dtype=torch.float32, device=pcm.device)
            decay = torch.tril(config.level_decay ** (n[:, None] - n[None, :]).clamp(min=0))
            carried = config.level_decay ** (n + 1)
            sums = level[:, 0:1] * carried + per_step @ decay.T
            counts = level[:, 1:2] * carried + decay.sum(dim=1)
        # A clamp, not a sum: the exporter's optimizer takes + 1e-10 for + 0 and drops it, and silence becomes 0 / 0.
        gain = 1.0 / torch.clamp(sums / counts, min=POWER_FLOOR)
        ratio = energy.reshape(-1, steps, config.frames_per_step, config.bands) * gain.reshape(-1, steps, 1, 1)
        log = torch.log(ratio + config.relative_floor).reshape(-1, steps * config.frames_per_step, config.bands)
        features = (log - self.band_mean) * self.band_gain
        return features, torch.cat([sums[:, -1:], counts[:, -1:]], dim=1), per_step * gain, per_step
