"""How sure CosyVoice-Tiny is by how much speech it has heard: fitted on dev, so that 0.7 is right seven times in ten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeemo.data.telephone import through_line
from edgeemo.model.config import LABELS
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.train.mix import Pool, Row

LINES = ("clean", "alaw", "noise10")
BINS = 10
FIRST_HALF = 6.0  # steps, where the fit begins


@dataclass
class Steps:
    """Answers to every step of some clips: logits (n, 7), steps of speech so far (n,), label (n,), and its clip (n,)."""

    logits: Tensor
    spoken: Tensor
    label: Tensor
    clip: Tensor

    @classmethod
    def of(cls, model: CosyVoiceTiny, pool: Pool, rows: list[Row], lines: Sequence[str] = LINES, size: int = 32) -> Steps:
        """Answers to each clip through each of the lines."""
        model.eval()
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        order = sorted(range(len(rows)), key=lambda i: -rows[i].samples)
        with torch.inference_mode():
            for k, line in enumerate(lines):
                for group in np.split(np.array(order), range(size, len(order), size)):
                    logits, spoken, counts = _heard(model, [through_line(pool.audio(rows[i]), line, int(i)) for i in group])
                    for row, i in enumerate(group):
                        n, label = counts[row], rows[i].label
                        at = torch.full((n,), k * len(rows) + int(i))
                        parts.append((logits[row, :n], spoken[row, :n], torch.full((n,), label or 0), at))
        return cls(*(torch.cat(values).clone() for values in zip(*parts, strict=True)))


def _heard(model: CosyVoiceTiny, audio: list[np.ndarray]) -> tuple[Tensor, Tensor, list[int]]:
    step = model.config.step_samples
    counts = [-(-len(a) // step) for a in audio]
    pcm = torch.zeros(len(audio), max(counts) * step)
    for row, samples in enumerate(audio):
        pcm[row, : len(samples)] = torch.from_numpy(samples)
    state = model.initial_state(len(pcm))
    features, energy, spoken, _ = model.features(pcm, state, max(counts))
    return model.logits(features, energy, state, max(counts))[0][..., : len(LABELS)], spoken, counts


def fit_sureness(model: CosyVoiceTiny, steps: Steps) -> CosyVoiceTiny:
    """The same weights in a model whose logits' factor, a + b s / (s + c) of s steps of speech, makes steps' labels likeliest.

    Of these b and c are fitted; a stays where it is, low: of a call that has said nothing yet there is nothing to say.
    """
    value = torch.zeros(2, requires_grad=True)  # logarithms, so that both stay positive
    optimizer = torch.optim.LBFGS([value], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        more, half = value.exp()
        factor = model.config.sure_least + more * steps.spoken / (steps.spoken + FIRST_HALF * half)
        nll = F.cross_entropy(steps.logits * factor[:, None], steps.label) + 1e-4 * value.square().sum()
        nll.backward()
        return nll

    optimizer.step(loss)
    more, half = (float(v) for v in value.detach().exp())
    made = CosyVoiceTiny(replace(model.config, sure_more=round(more, 4), sure_half=round(FIRST_HALF * half, 4)))
    made.load_state_dict(model.state_dict())
    return made.eval()


def calibration_error(probabilities: np.ndarray, label: np.ndarray) -> float:
    """Expected calibration error of the likeliest label, ten bins of equal width (Naeini et al. 2015)."""
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == label
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(sure[place == i].mean() - right[place == i].mean()) * (place == i).mean() for i in np.unique(place)]
    return float(sum(gaps))


def errors(model: CosyVoiceTiny, steps: Steps) -> dict[str, float]:
    """Expected calibration error of steps, and of clips by the mean of their steps."""
    factor = model.sureness(steps.spoken)[:, None]
    p = torch.softmax(steps.logits * factor, dim=1)
    clips = int(steps.clip.max()) + 1
    count = torch.bincount(steps.clip, minlength=clips)
    mean = torch.zeros(clips, p.shape[1]).index_add_(0, steps.clip, p) / count[:, None].clamp(min=1)
    label = torch.zeros(clips, dtype=torch.long).scatter_(0, steps.clip, steps.label)
    there = count > 0
    return {
        "steps": calibration_error(p.numpy(), steps.label.numpy()),
        "clips": calibration_error(mean[there].numpy(), label[there].numpy()),
    }
