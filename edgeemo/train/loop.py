"""The loop that every recipe shares: AdamW with one cycle, averaged weights, the best of them on dev kept."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeemo.data.clips import newest, read_manifest
from edgeemo.data.corpus import ONLY_AUDIO, Corpus
from edgeemo.model.checkpoint import save_checkpoint
from edgeemo.model.streaming import StreamingModel


def load_sets(folders: Sequence[Path], rate: int, step_samples: int) -> tuple[Corpus, Corpus]:
    """The splits train and dev of some folders, in memory. Raises EdgeEmoError where one is not there."""
    listed = {split: newest(c for f in folders for c in read_manifest(f, split)) for split in ("train", "dev")}
    sets = [Corpus([c for c in clips if c.corpus not in ONLY_AUDIO], rate, step_samples) for clips in listed.values()]
    print(f"clips: {len(sets[0].clips)} train, {len(sets[1].clips)} dev", file=sys.stderr)
    return sets[0], sets[1]


def class_weights(label: np.ndarray, classes: int, drawn: np.ndarray | None = None) -> Tensor:
    """Square root of how much rarer a class is than the most frequent, on average 1 over the clips; float32 (classes,).
    ``drawn`` (n,): how often each clip is, where that is not once."""
    counts = np.bincount(label, weights=drawn, minlength=classes)
    weight = torch.tensor((counts.max() / np.maximum(counts, 1)) ** 0.5, dtype=torch.float32)
    return weight / ((weight * torch.tensor(counts)).sum() / counts.sum())


def smoothed_nll(log_p: Tensor, target: Tensor, smoothing: float, weight: Tensor) -> Tensor:
    """Label-smoothed negative log-likelihood per row, weighted by class; log_p (..., 7), target (...)."""
    nll = -log_p.gather(-1, target[..., None])[..., 0]
    return weight[target] * ((1 - smoothing) * nll - smoothing * log_p.mean(dim=-1))


def spec_augment(features: Tensor, bands: int, frames: int, fill: Tensor, rng: np.random.Generator) -> Tensor:
    """SpecAugment (Park et al. 2019) on features (B, T, F): per clip two masks of up to ``bands`` bands and two of up to
    ``frames`` frames, holding ``fill`` (B, 1, 1) or ()."""
    _, length, width = features.shape
    keep = torch.ones(features.shape, dtype=torch.bool)
    for row in keep:
        for _ in range(2):
            for along, most, size in ((row.T, bands, width), (row, min(frames, length), length)):
                masked = int(rng.integers(most + 1))
                start = int(rng.integers(size - masked + 1))
                along[start : start + masked] = False
    return torch.where(keep, features, fill)


def fit(
    model: StreamingModel,
    groups: list[dict[str, Any]],
    losses: Callable[[], Iterator[Tensor]],
    batches: int,
    epochs: int,
    average: float,
    score: Callable[[StreamingModel], float],
    out: Path,
    least: float = -1.0,
) -> dict[str, object]:
    """``groups``: AdamW's, each with its peak learning rate; ``losses``: an epoch of ``batches`` losses of ``model``; ``score``:
    of the averaged weights on dev, the best of which are written to ``out`` if above ``least``. Returns the scores."""
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in groups], total_steps=batches * epochs, pct_start=0.08, cycle_momentum=False
    )
    averaged = copy.deepcopy(model)
    best, scores = least, []
    for epoch in range(epochs):
        model.train()
        began, total = time.monotonic(), 0.0
        for loss in losses():
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            # A short memory at first: averaging in the random start would only slow the beginning.
            decay = min(average, (1 + schedule.last_epoch) / (10 + schedule.last_epoch))
            with torch.no_grad():
                for a, p in zip(averaged.parameters(), model.parameters(), strict=True):
                    a.lerp_(p, 1 - decay)
                for mine, theirs in zip(averaged.buffers(), model.buffers(), strict=True):
                    mine.copy_(theirs)
        reached = score(averaged)
        scores.append(round(reached, 4))
        mark = ""
        if reached > best:
            best, mark = reached, " *"
            save_checkpoint(averaged, out)
        took = time.monotonic() - began
        print(
            f"epoch {epoch + 1:3}/{epochs}  loss {total / batches:.3f}  dev macro-F1 {reached:.4f}{mark}  {took:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return {"dev_macro_f1": scores, "best_dev_macro_f1": round(best, 4), "checkpoint": str(out)}
