"""Training CosyVoice-Tiny from Whisper's front: following the whole encoder's states, and labels, on one mix of all folders."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeemo_runtime.errors import EdgeEmoError
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.data.telephone import TelephoneChannel
from edgeemo.evaluate.metrics import confusion_matrix, macro_f1
from edgeemo.model.checkpoint import load_checkpoint, save_checkpoint
from edgeemo.model.config import LABELS
from edgeemo.model.cosyvoice_tiny import SUMMARY_STATES, CosyVoiceTiny
from edgeemo.model.whisper import WhisperEncoder, load_whisper
from edgeemo.train.mix import Mix, Pool, Row, Rows
from edgeemo.train.start import begin_with_whisper

DELAY = 100  # samples by which the student hears later than Whisper, whose frames are centred: 12.5 ms
TEACHER_LAYERS = (2,)  # the student's last is the same one


@dataclass(frozen=True)
class ListenerRecipe:
    """What `edgeemo train` does for CosyVoice-Tiny; printed at the start and kept in the training report."""

    updates: int = 1800
    rows: int = 24  # a batch
    steps: int = 32  # a row, 5.12 s: the global path's 4 s and more
    peak_lr: float = 1e-4  # of what comes from Whisper
    new_lr: float = 1e-3  # of what does not
    weight_decay: float = 0.02
    warm_up: int = 150  # updates before labels bend the encoder
    unlabelled: float = 0.25  # share of rows
    line: float = 0.3  # share of rows through each part of the telephone line
    state_loss: float = 2.0
    clip_loss: float = 0.5
    source_loss: float = 0.5  # of the second task, telling which corpus a clip is from
    average: float = 0.997
    every: int = 200  # updates from one look at dev to the next
    half: bool = True  # matrix products in bfloat16
    seed: int = 1


class Teacher:
    """Whisper's whole encoder on the clean row: its states after TEACHER_LAYERS as tokens of 40 ms, without their positions."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        self.encoder = encoder.requires_grad_(False)
        self.encoder.layers = encoder.layers[: max(TEACHER_LAYERS)]
        self.scale: list[Tensor] = []

    def mel(self, pcm: Tensor) -> Tensor:
        """Whisper's log-mel (B, 80, frames) of pcm at 8 kHz, its loudest band at 1.0, at the student's times."""
        mel = self.encoder.log_mel(_doubled(F.pad(pcm, (DELAY, 0))[:, : pcm.shape[1]]))
        return (mel - mel.amax(dim=(1, 2), keepdim=True)).clamp(min=-2.0) + 1.0

    @torch.no_grad()
    def states(self, rows: Rows, half: bool) -> list[Tensor]:
        """(B, tokens, width) of each layer, each channel in units of its deviation."""
        mel = self.mel(rows.pcm)
        positions = self.encoder.positions[rows.began[:, None] + torch.arange(mel.shape[2] // 2)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            layers = self.encoder.encode(mel, positions)
        made = []
        for layer in TEACHER_LAYERS:
            x = layers[layer - 1].float() - positions
            made.append(x.reshape(len(x), -1, 2, x.shape[2]).mean(dim=2))
        if not self.scale:
            self.scale = [x.flatten(0, 1).std(dim=0).clamp(min=1e-3) for x in made]
        return [x / s for x, s in zip(made, self.scale, strict=True)]


def _doubled(pcm: Tensor) -> Tensor:
    """At twice the rate, by a spectrum of zeros above."""
    spectrum = torch.fft.rfft(pcm)
    return torch.fft.irfft(F.pad(spectrum, (0, spectrum.shape[1] - 1)), 2 * pcm.shape[1]) * 2.0


class Lesson(nn.Module):
    """The model beside what only training needs: maps to the teacher's states, and the second task."""

    def __init__(self, model: CosyVoiceTiny, teacher: Teacher, corpora: int) -> None:
        super().__init__()
        self.model = model
        d = model.config.d_model
        self.maps = nn.ModuleList(nn.Linear(d, d) for _ in TEACHER_LAYERS)
        # The student's last layer is Whisper's second: the first map begins as what standardises it.
        first = self.maps[0]
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            first.weight.copy_(torch.diag(1.0 / teacher.scale[0]))
            first.bias.zero_()
        self.sources = nn.Linear(model.head.classifier.in_features, corpora)

    def hear(self, pcm: Tensor, began: Tensor, steps: int, bend: bool, half: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The last layer's tokens, what the classifier sees, and logits, of a telephone line's rows. Without ``bend`` labels do
        not reach the encoder."""
        m = self.model
        state = m.initial_state(len(pcm))
        angle = began[:, None] * m.positions.turn
        state["position"] = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1).float() - m.positions.begin
        features, energy, _, _ = m.features(pcm, state, steps)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            layers, _ = m.tokens(features, state, steps)
        given = [x.float() if bend else x.detach().float() for x in layers]
        # A pause's weight is nothing to learn from, and the root's slope at silence is infinite.
        pooled, _ = m.summary(given, energy.detach(), [state[n] for n in SUMMARY_STATES], steps)
        seen = m.head.summarised(pooled)
        return layers[-1].float(), seen, m.head.classifier(seen)[..., : len(LABELS)]

    def loss(
        self, rows: Rows, line: Tensor, states: list[Tensor], recipe: ListenerRecipe, weight: Tensor, bend: bool
    ) -> dict[str, Tensor]:
        """The parts of the loss by name, times their weights."""
        steps = rows.target.shape[1]
        tokens, seen, logits = self.hear(line, rows.began, steps, bend, recipe.half)
        distance = torch.stack([(f(tokens) - s).abs().mean() for f, s in zip(self.maps, states, strict=True)]).sum()
        log_p = torch.log_softmax(logits, dim=2)
        nll = -(rows.target * weight * log_p).sum(dim=2)
        step = (nll * rows.weight).sum() / rows.weight.sum().clamp(min=1)
        first = (torch.arange(steps) < rows.first[:, None]).float()
        mean = torch.logsumexp(log_p + first.log()[:, :, None], dim=1) - rows.first.log()[:, None]
        known = rows.corpus >= 0
        clip = -(rows.target[:, 0] * weight * mean).sum(dim=1)[known].mean()
        last = seen[torch.arange(len(seen)), rows.first - 1]
        source = F.cross_entropy(self.sources(last[known]), rows.corpus[known])
        return {
            "state": distance * recipe.state_loss,
            "step": step,
            "clip": clip * recipe.clip_loss,
            "source": source * recipe.source_loss,
        }


def clip_probabilities(model: CosyVoiceTiny, pool: Pool, rows: list[Row], size: int = 32) -> np.ndarray:
    """Mean step probability of each clip (n, 7), as it was recorded, from the start of a call."""
    model.eval()
    step = model.config.step_samples
    answer = np.empty((len(rows), len(LABELS)))
    order = np.argsort([-r.samples for r in rows], kind="stable")
    with torch.inference_mode():
        for group in np.split(order, range(size, len(order), size)):
            counts = [-(-rows[i].samples // step) for i in group]
            pcm = torch.zeros(len(group), max(counts) * step)
            for k, i in enumerate(group):
                pcm[k, : rows[i].samples] = torch.from_numpy(pool.audio(rows[i]))
            p, _ = model(pcm, model.initial_state(len(group)), max(counts))
            real = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
            answer[group] = ((p * real[:, :, None]).sum(dim=1) / torch.tensor(counts)[:, None]).numpy()
    return answer


def scores(rows: list[Row], probabilities: np.ndarray) -> dict[str, float]:
    """Macro-F1 over the classes that there are: of all clips, of each corpus, and the corpora's mean."""
    label, answer = np.array([r.label for r in rows]), probabilities.argmax(axis=1)
    corpus = np.array([r.corpus for r in rows])

    def f1(keep: np.ndarray) -> float:
        return macro_f1(confusion_matrix(label[keep], answer[keep], len(LABELS)))

    found = {str(c): f1(corpus == c) for c in np.unique(corpus)}
    return {"all": f1(np.ones(len(rows), dtype=bool)), "mean": float(np.mean(list(found.values()))), **found}


def _groups(lesson: Lesson, recipe: ListenerRecipe) -> list[dict[str, object]]:
    """Whisper's matrices slowly, what is new faster; filters and positions do not decay."""
    new = ("maps", "sources", "model.head", "model.emotion_conv", "model.frontend", "distance")
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, p in lesson.named_parameters():
        is_new = any(part in name for part in new)
        groups.setdefault((is_new, p.ndim >= 2 and not any(n in name for n in ("filters", "distance"))), []).append(p)
    return [
        {"params": ps, "lr": recipe.new_lr if is_new else recipe.peak_lr, "weight_decay": recipe.weight_decay if matrix else 0.0}
        for (is_new, matrix), ps in groups.items()
    ]


def train_listener(
    folders: Sequence[Path],
    out: Path,
    recipe: ListenerRecipe,
    threads: int,
    init: Path | None = None,
    unlabelled: Path | None = None,
    resume: bool = False,
) -> dict[str, object]:
    """Trains on the splits ``train`` of ``folders``, keeps the averaged weights that are best on their ``dev``, writes them to
    ``out``; ``resume`` goes on where a run with the same ``out`` was cut off.

    Raises EdgeEmoError where Whisper's weights are not installed, or ``init`` is of another model.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    model = CosyVoiceTiny() if init is None else load_checkpoint(init)
    if not isinstance(model, CosyVoiceTiny):
        raise EdgeEmoError(f"{init}: is a checkpoint of {model.title}; give --model {model.kind} to go on with it")
    teacher, c = Teacher(load_whisper()), model.config
    print(f"recipe: {recipe}", file=sys.stderr)
    pool = Pool.load([*folders, *([unlabelled] if unlabelled else [])], c.sample_rate, out.with_suffix(".npy"))
    mix = Mix(pool, recipe.steps, c.step_samples, recipe.unlabelled if unlabelled else 0.0, recipe.seed)
    print(f"clips: {len(mix.labelled)} with labels, {len(mix.others)} without", file=sys.stderr)
    rows = mix.batch(2 * recipe.rows)
    teacher.states(rows, recipe.half)  # of which the deviations are kept
    if init is None:
        begin_with_whisper(model, teacher.encoder, teacher.mel(rows.pcm))
        _set_statistics(model, mix, recipe)
    reached = _loop(Lesson(model, teacher, len(mix.corpora)), teacher, pool, mix, recipe, out, resume)
    report = {"model": model.kind, "recipe": asdict(recipe), "dev_macro_f1": reached, "best_dev_macro_f1": max(reached)}
    return {**report, "checkpoint": str(out)}


def _loop(lesson: Lesson, teacher: Teacher, pool: Pool, mix: Mix, recipe: ListenerRecipe, out: Path, resume: bool) -> list[float]:
    """Returns what was reached at every look at dev. All that a run needs to go on lies beside ``out``."""
    model, channel = lesson.model, TelephoneChannel(recipe.seed, recipe.line)
    averaged = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(_groups(lesson, recipe), betas=(0.9, 0.98))
    rates = [g["lr"] for g in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=recipe.updates, pct_start=0.08, cycle_momentum=False
    )
    parts: dict[str, Any] = {"lesson": lesson, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    state, done, reached = out.with_suffix(".state"), 0, list[float]()
    if resume and state.is_file():
        kept = torch.load(state, weights_only=False)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        mix.rng, reached, done = kept["rng"], kept["reached"], kept["done"]
    dev = [r for r in pool.of("dev") if r.target is not None]
    began, totals = time.monotonic(), Counter[str]()
    for update in range(done, recipe.updates):
        lesson.train()
        rows = mix.batch(recipe.rows)
        losses = lesson.loss(rows, channel(rows.pcm), teacher.states(rows, recipe.half), recipe, mix.class_weight,
                             update >= recipe.warm_up)  # fmt: skip
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(lesson.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        totals.update({name: float(value.detach()) for name, value in losses.items()})
        _average(averaged, model, min(recipe.average, (1 + update) / (10 + update)))
        if (update + 1) % recipe.every and update + 1 < recipe.updates:
            continue
        found = scores(dev, clip_probabilities(averaged, pool, dev))
        score = (found["all"] + found["mean"]) / 2
        if score > max(reached, default=-1.0):
            save_checkpoint(averaged, out)
        reached.append(round(score, 4))
        said = [f"{k} {v / recipe.every:.3f}" for k, v in totals.items()] + [f"{k} {v:.3f}" for k, v in found.items()]
        print(f"{update + 1:5} {time.monotonic() - began:.0f} s  {'  '.join(said)}", file=sys.stderr, flush=True)
        totals.clear()
        kept = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**kept, "rng": mix.rng, "reached": reached, "done": update + 1}, state.with_suffix(".partial"))
        os.replace(state.with_suffix(".partial"), state)
    return reached


def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for a, p in zip(averaged.parameters(), model.parameters(), strict=True):
            a.lerp_(p, 1 - decay)
        for mine, theirs in zip(averaged.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


def _set_statistics(model: CosyVoiceTiny, mix: Mix, recipe: ListenerRecipe, batches: int = 6) -> None:
    channel, pooled = TelephoneChannel(recipe.seed, recipe.line), []
    with torch.no_grad():
        for _ in range(batches):
            state = model.initial_state(recipe.rows)
            features, energy, _, _ = model.features(channel(mix.batch(recipe.rows).pcm), state, recipe.steps)
            layers, _ = model.tokens(features, state, recipe.steps)
            pooled.append(model.summary(layers, energy, [state[n] for n in SUMMARY_STATES], recipe.steps)[0].flatten(0, 1))
    model.head.set_statistics(torch.cat(pooled))
