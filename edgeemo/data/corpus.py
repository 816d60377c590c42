"""Clips as tensors for training: decoded once, mixed over all corpora in every batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from edgeemo_runtime.audio import audio_seconds, load_audio
from edgeemo_runtime.errors import EdgeEmoError
from torch import Tensor

from edgeemo.data.clips import Clip, find_clips

CROP_S = 2.88  # 18 steps; random, so that a batch of any clips is little padding
SPEEDS = (0.9, 1.1)
SILENCE_RMS = 1e-3
MIN_PIECE_S = 0.75
ONLY_AUDIO = ("baved",)  # its one label is neutral: a language would become an emotion


@dataclass
class Batch:
    """pcm (B, S * 1280) float32, zero-padded; steps (B,) int64, the steps with audio in them; label (B,) int64.

    From a teacher, where there is one: states (B, 3 S, width) and soft labels (B, 7), float32. ``labelled`` (B,) float32: 0 for
    audio without a label, whose ``label`` means nothing; None where all have one.
    """

    pcm: Tensor
    steps: Tensor
    label: Tensor
    states: Tensor | None = None
    soft: Tensor | None = None
    labelled: Tensor | None = None


def change_speed(audio: np.ndarray, speed: float) -> np.ndarray:
    """Time and pitch by ``speed``, linear interpolation; float32 (samples / speed,)."""
    at = np.arange(0, len(audio) - 1, speed, dtype=np.float32)
    return np.interp(at, np.arange(len(audio)), audio).astype(np.float32)


def unlabelled_pieces(folder: Path, rate: int) -> list[np.ndarray]:
    """All speech of a folder in pieces of CROP_S, float32 at ``rate``; silent ones and those under 0.75 s are left out. Raises
    EdgeEmoError if nothing is left."""
    size = int(CROP_S * rate)
    pieces = []
    for clip in find_clips(folder):
        if audio_seconds(clip.path) < MIN_PIECE_S:  # an empty file among prompts is no mistake
            continue
        audio = load_audio(clip.path, rate)
        cut = (audio[i : i + size] for i in range(0, len(audio), size))
        pieces += [p for p in cut if len(p) >= MIN_PIECE_S * rate and np.sqrt(np.mean(p**2)) > SILENCE_RMS]
    if not pieces:
        raise EdgeEmoError(f"{folder}: holds no speech of 0.75 s or more")
    return pieces


def balanced(source: np.ndarray) -> np.ndarray:
    """Chance of each clip (n,) by the corpus that it is from (n,): a corpus is drawn by the root of its size."""
    share = np.bincount(source) ** -0.5
    return np.asarray(share[source] / share[source].sum())


class Corpus:
    """Labelled clips in memory at the model's rate (float32, 115 MB an hour at 8 kHz)."""

    def __init__(self, clips: list[Clip], rate: int, step_samples: int) -> None:
        self.step_samples = step_samples
        self.rate = rate
        self.clips = [c for c in clips if c.label is not None]
        self.audio = [load_audio(c.path, rate) for c in self.clips]
        self.label = np.array([c.label for c in self.clips])
        self.sources, self.source = np.unique([c.corpus for c in self.clips], return_inverse=True)  # names, and each clip's
        self.chance = balanced(self.source)

    def drawn(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Which clips an epoch of ``count`` has: every one where there is one corpus and so many clips, else by their chance."""
        if len(self.sources) == 1 and count == len(self):
            return rng.permutation(count)
        return rng.choice(len(self), count, p=self.chance)

    def __len__(self) -> int:
        return len(self.clips)

    def batches(self, size: int, rng: np.random.Generator | None = None) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches with the indices of their clips. With ``rng``: drawn from balanced corpora, cropped at random and stretched
        by 0.9-1.1 in time and pitch; without: all audio, by length.

        Batches of like lengths would be batches of one corpus: with them, training did not leave chance level in 500 steps.
        """
        audio = self.audio if rng is None else [self._vary(a, rng) for a in self.audio]
        order = np.argsort([-len(a) for a in audio], kind="stable") if rng is None else self.drawn(len(audio), rng)
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        for group in groups:
            steps = [-(-len(audio[i]) // self.step_samples) for i in group]
            pcm = torch.zeros(len(group), max(steps) * self.step_samples)
            for row, i in enumerate(group):
                pcm[row, : len(audio[i])] = torch.from_numpy(audio[i])
            yield Batch(pcm, torch.tensor(steps), torch.from_numpy(self.label[group])), group

    def _vary(self, audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        longest = int(CROP_S * self.rate * 1.1)
        if len(audio) > longest:
            start = int(rng.integers(len(audio) - longest))
            audio = audio[start : start + longest]
        return change_speed(audio, rng.uniform(*SPEEDS))[: int(CROP_S * self.rate)]
