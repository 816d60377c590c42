"""Two models on the same clips: what changed, how sure that is, and on which clips."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeemo.data.clips import Clip
from edgeemo.evaluate.metrics import confusion_matrix, macro_f1

RESAMPLES = 2000
WORST = 10
TINY = 1e-7  # under a probability before its logarithm


@dataclass(frozen=True)
class WorstClip:
    path: str
    label: str
    reference: str  # the reference's answer
    answer: str
    kl: float  # nats


@dataclass(frozen=True)
class Comparison:
    """A model next to a reference on the same clips. ``drop`` is the reference's macro-F1 less the model's; ``interval`` holds
    95 % of the drops when speakers are drawn anew."""

    clips: int
    speakers: int
    reference_f1: float
    f1: float
    drop: float
    interval: tuple[float, float]
    agreement: float  # share of clips with the same answer
    mean_kl: float  # of the model's clip probabilities from the reference's, nats
    worst: tuple[WorstClip, ...]

    def document(self) -> dict[str, Any]:
        return asdict(self)


def compare(reference: np.ndarray, answers: np.ndarray, clips: list[Clip], labels: tuple[str, ...], seed: int = 0) -> Comparison:
    """``reference`` and ``answers``: probabilities of the clips (clips, labels). Clips need labels.

    The interval is the percentile bootstrap over speakers (Efron & Tibshirani 1993, chapter 13): clips of one speaker are alike,
    so speakers are drawn, with replacement, and both models are scored on the same draw. A clip without a speaker is its own.
    """
    p, q = (side.astype(np.float64) for side in (reference, answers))
    truth, mine, other = np.array([c.label for c in clips]), q.argmax(axis=1), p.argmax(axis=1)
    speaker_of, speakers = _speakers(clips)
    before, after = (_by_speaker(truth, a, speaker_of, speakers, len(labels)) for a in (other, mine))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(speakers, np.full(speakers, 1 / speakers), size=RESAMPLES)
    drops = [macro_f1(np.tensordot(d, before, 1)) - macro_f1(np.tensordot(d, after, 1)) for d in draws]
    low, high = np.percentile(drops, [2.5, 97.5])
    f1 = [macro_f1(c.sum(axis=0)) for c in (before, after)]
    p, q = np.maximum(p, TINY), np.maximum(q, TINY)
    kl = (p * np.log(p / q)).sum(axis=1)
    worst = tuple(
        WorstClip(str(clips[i].path), labels[truth[i]], labels[other[i]], labels[mine[i]], round(float(kl[i]), 5))
        for i in np.argsort(-kl, kind="stable")[:WORST]
    )
    agreement = float((mine == other).mean())
    return Comparison(
        len(clips), speakers, f1[0], f1[1], f1[0] - f1[1], (float(low), float(high)), agreement, float(kl.mean()), worst
    )


def _speakers(clips: list[Clip]) -> tuple[np.ndarray, int]:
    names = [c.speaker or f"clip {i}" for i, c in enumerate(clips)]
    _, index = np.unique(names, return_inverse=True)
    return index, int(index.max()) + 1


def _by_speaker(truth: np.ndarray, answer: np.ndarray, speaker: np.ndarray, speakers: int, classes: int) -> np.ndarray:
    """Confusion counts (speakers, classes, classes)."""
    return np.stack([confusion_matrix(truth[speaker == s], answer[speaker == s], classes) for s in range(speakers)])
