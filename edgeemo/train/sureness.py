"""How sure CosyVoice-Tiny is by how much speech it has heard: fitted on dev, so that 0.7 is right seven times in ten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeemo.data.telephone import through_line
from edgeemo.evaluate.metrics import calibration_error
from edgeemo.model.config import LABELS
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.train.mix import Pool, Row

LINES = ("clean", "alaw", "noise10")
FIRST_HALF = 6.0  # steps, where the fit begins
SESSION_S = 16.0  # of clips of one speaker and emotion, one after another


Person = tuple[str, str | int]  # corpus and speaker


def _person(row: Row, place: int) -> Person:
    """A clip without a speaker is its own, by its ``place``."""
    return row.corpus, row.speaker or place


def sessions(rows: list[Row], rate: int) -> list[list[Row]]:
    """Every clip alone, and clips of one speaker and emotion joined to about SESSION_S: a call is longer than a clip."""
    groups: dict[tuple[Person, int | None], list[Row]] = {}
    for i, r in enumerate(rows):
        groups.setdefault((_person(r, i), r.label), []).append(r)
    joined: list[list[Row]] = []
    for group in groups.values():
        left = 0.0
        for r in group:
            if left <= 0:
                joined.append([])
                left = SESSION_S * rate
            joined[-1].append(r)
            left -= r.samples
    return [[r] for r in rows] + [j for j in joined if len(j) > 1]


@dataclass
class Steps:
    """All steps of some sessions: logits (n, 7), steps of speech so far (n,), label (n,), the session of each (n,), and its
    speaker, by number (n,)."""

    logits: Tensor
    spoken: Tensor
    label: Tensor
    clip: Tensor
    speaker: Tensor

    @classmethod
    def of(cls, model: CosyVoiceTiny, pool: Pool, heard: list[list[Row]], lines: Sequence[str] = LINES, size: int = 32) -> Steps:
        """Each session through the first line and, in turn, one of the others."""
        model.eval()
        parts: list[tuple[Tensor, ...]] = []
        people: dict[Person, int] = {}
        jobs = [(i, line) for i in range(len(heard)) for line in (lines[0], *lines[1:][i % max(1, len(lines) - 1) :][:1])]
        samples = [sum(r.samples for r in rows) for rows in heard]
        jobs.sort(key=lambda job: -samples[job[0]])
        with torch.inference_mode():
            for first in range(0, len(jobs), size):
                group = jobs[first : first + size]
                audio = [through_line(np.concatenate([pool.audio(r) for r in heard[i]]), line, i) for i, line in group]
                logits, spoken, counts = _heard(model, audio)
                for row, (i, _) in enumerate(group):
                    person = people.setdefault(_person(heard[i][0], i), len(people))
                    n, about = counts[row], (heard[i][-1].label or 0, first + row, person)
                    parts.append((logits[row, :n], spoken[row, :n], *(torch.full((n,), k) for k in about)))
        return cls(*(torch.cat(values).clone() for values in zip(*parts, strict=True)))

    def answered(self, model: CosyVoiceTiny) -> Tensor:
        """Which steps have an answer (n,): those after the listening, or all where a session ends in it."""
        least = model.config.least_speech
        most = torch.zeros(int(self.clip.max()) + 1).scatter_reduce_(0, self.clip, self.spoken, "amax")
        return (self.spoken >= least) | (most[self.clip] < least)


def _heard(model: CosyVoiceTiny, audio: list[np.ndarray]) -> tuple[Tensor, Tensor, list[int]]:
    step = model.config.step_samples
    counts = [-(-len(a) // step) for a in audio]
    pcm = torch.zeros(len(audio), max(counts) * step)
    for row, samples in enumerate(audio):
        pcm[row, : len(samples)] = torch.from_numpy(samples)
    state = model.initial_state(len(pcm))
    features, energy, spoken, _ = model.features(pcm, state, max(counts))
    return model.logits(features, energy, state, max(counts))[0][..., : len(LABELS)], spoken, counts


def _factor(spoken: Tensor, least: float, more: Tensor, half: Tensor) -> Tensor:
    return (least + more * spoken / (spoken + half))[:, None]


def last_steps(clip: Tensor) -> Tensor:
    """Places of the clips' last steps (clips,), the answers about all of them; ``clip``: that of every step (n,), in order."""
    return torch.cat([torch.nonzero(clip[1:] != clip[:-1])[:, 0], torch.tensor([len(clip) - 1], device=clip.device)])


def _speakers_nll(logits: Tensor, steps: Steps, rows: Tensor) -> Tensor:
    """Mean over speakers of the mean over their ``rows`` of the labels' negative log likelihood."""
    _, person, count = torch.unique(steps.speaker[rows], return_inverse=True, return_counts=True)
    nll = F.cross_entropy(logits[rows], steps.label[rows], reduction="none")
    return (nll / count[person]).sum() / len(count)


def fit_sureness(model: CosyVoiceTiny, steps: Steps) -> CosyVoiceTiny:
    """The same weights in a model whose logits' factor, a + b s / (s + c) of s steps of speech, makes labels likeliest: those of
    steps that have an answer, and those of whole sessions by their last one. Every speaker counts alike, however many clips there
    are: whoever calls next is somebody else.

    Of these b and c are fitted; a stays where it is, low: of a call that has said nothing yet there is nothing to say.
    """
    value = torch.zeros(2, requires_grad=True)  # logarithms, so that both stay positive
    optimizer = torch.optim.LBFGS([value], max_iter=100, line_search_fn="strong_wolfe")
    answered, last = steps.answered(model), last_steps(steps.clip)

    def loss() -> Tensor:
        optimizer.zero_grad()
        more, half = value.exp()
        logits = steps.logits * _factor(steps.spoken, model.config.sure_least, more, FIRST_HALF * half)
        nll = _speakers_nll(logits, steps, answered) + _speakers_nll(logits, steps, last) + 1e-4 * value.square().sum()
        nll.backward()
        return nll

    optimizer.step(loss)
    more, half = (float(v) for v in value.detach().exp())
    made = CosyVoiceTiny(replace(model.config, sure_more=round(more, 4), sure_half=round(FIRST_HALF * half, 4)))
    made.load_state_dict(model.state_dict())
    return made.eval()


def errors(model: CosyVoiceTiny, steps: Steps) -> dict[str, float]:
    """Expected calibration error of the steps that have an answer, and of sessions by their last one."""
    p = torch.softmax(steps.logits * model.sureness(steps.spoken)[:, None], dim=1)
    rows = {"steps": steps.answered(model), "clips": last_steps(steps.clip)}
    return {name: calibration_error(p[row].numpy(), steps.label[row].numpy()) for name, row in rows.items()}
