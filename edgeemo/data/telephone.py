"""A telephone line in torch: what studio speech goes through before the model learns from it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def g711(x: Tensor, law: str) -> Tensor:
    """Through G.711 and back: x float in [-1, 1], ``law`` "mu" or "a"; ITU-T G.711 in its continuous form, 8 bits."""
    magnitude = x.abs().clamp(max=1.0)
    if law == "mu":
        code = torch.log1p(255.0 * magnitude) / math.log(256.0)
        code = torch.round(code * 127.0) / 127.0
        return x.sign() * (torch.pow(256.0, code) - 1.0) / 255.0
    a, log_a = 87.6, 1.0 + math.log(87.6)
    small = magnitude < 1.0 / a
    code = torch.where(small, a * magnitude / log_a, (1.0 + torch.log((a * magnitude).clamp(min=1e-9))) / log_a)
    code = torch.round(code * 127.0) / 127.0
    back = torch.where(code < 1.0 / log_a, code * log_a / a, torch.exp(code * log_a - 1.0) / a)
    return x.sign() * back


def band_pass(x: Tensor, low: float | Tensor, high: float | Tensor, rate: int = 8000) -> Tensor:
    """Zero-phase band-pass with raised-cosine edges (100 Hz and 200 Hz wide); x (B, samples), edges in Hz, for all rows or (B,
    1)."""
    n = x.shape[-1]
    spectrum = torch.fft.rfft(x, n)
    f = torch.linspace(0, rate / 2, spectrum.shape[-1], device=x.device)
    rise = ((f - (low - 100.0)) / 100.0).clamp(0, 1)
    fall = ((high + 200.0 - f) / 200.0).clamp(0, 1)
    gain = 0.25 * (1 - torch.cos(math.pi * rise)) * (1 - torch.cos(math.pi * fall))
    return torch.fft.irfft(spectrum * gain, n)


def coloured_noise(shape: tuple[int, int], slope: float | Tensor, generator: torch.Generator) -> Tensor:
    """Noise of unit power whose spectrum falls as f ** -slope (0 white, 1 pink-like), for all rows or (B, 1); float32 of
    ``shape`` on the generator's device."""
    white = torch.randn(shape, generator=generator, device=generator.device)
    spectrum = torch.fft.rfft(white)
    f = torch.arange(spectrum.shape[-1], dtype=torch.float32, device=white.device).clamp(min=1.0)
    noise = torch.fft.irfft(spectrum * f ** (-slope / 2), shape[-1])
    return noise / noise.pow(2).mean(dim=-1, keepdim=True).sqrt()


def through_line(audio: np.ndarray, line: str, seed: int) -> np.ndarray:
    """A clip (samples,) float32 as it comes out of one of lines.LINES: clean; band-passed to 300-3400 Hz and companded by G.711;
    or with noise (falling as 1 / f) so many dB under the clip's own power. ``seed`` makes the noise."""
    if line == "clean":
        return audio
    x = torch.from_numpy(audio)[None]
    if line in ("alaw", "mulaw"):
        return g711(band_pass(x, 300.0, 3400.0), line.removesuffix("law"))[0].numpy()
    noise = coloured_noise((1, x.shape[1]), 1.0, torch.Generator().manual_seed(seed))
    level = x.square().mean().sqrt() * 10 ** (-float(line.removeprefix("noise")) / 20)
    return (x + level * noise)[0].clamp(-1.0, 1.0).numpy()


class TelephoneChannel:
    """Random line per clip: level, noise, band-pass 300-3400 Hz, G.711. Levels are set before the companding."""

    def __init__(self, seed: int, share: float, noise: tuple[float, float] = (10.0, 45.0), device: str = "cpu") -> None:
        """``share`` of the clips goes through each of noise (so many dB under the speech), band-pass and companding,
        independently."""
        self.share, self.noise = share, noise
        self.generator = torch.Generator(device).manual_seed(seed)

    def _uniform(self, n: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, generator=self.generator, device=self.generator.device)

    def __call__(self, x: Tensor) -> Tensor:
        """x (B, samples) float32 at 8 kHz, zero-padded tails allowed; a new tensor of the same shape."""
        batch = x.shape[0]
        rms = x.pow(2).sum(dim=1, keepdim=True).div((x != 0).sum(dim=1, keepdim=True).clamp(min=1)).sqrt()
        x = x / rms.clamp(min=1e-6) * 10 ** (self._uniform(batch, -36.0, -16.0) / 20)
        level = x.pow(2).mean(dim=1, keepdim=True).sqrt()
        noise = coloured_noise((batch, x.shape[1]), self._uniform(batch, 0.0, 1.5), self.generator)
        noisy = x + noise * level * 10 ** (-self._uniform(batch, *self.noise) / 20)
        x = torch.where(self._uniform(batch, 0, 1) < self.share, noisy, x)
        narrow = band_pass(x, self._uniform(batch, 200.0, 320.0), self._uniform(batch, 3200.0, 3600.0))
        x = torch.where(self._uniform(batch, 0, 1) < self.share, narrow, x)
        companded = torch.where(self._uniform(batch, 0, 1) < 0.5, g711(x, "mu"), g711(x, "a"))
        return torch.where(self._uniform(batch, 0, 1) < self.share, companded, x).clamp(-1.0, 1.0)
