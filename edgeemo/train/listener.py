"""Training CosyVoice-Tiny from Whisper's front, in three parts.

Its encoder follows Whisper's on the clean signal, through whatever line it hears; a classifier is fitted on what it then hears;
and how sure an answer may be, on dev.

Labels do not reach the encoder: where they did, it lost more than they brought (docs/training-log.md).
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.whisper import WhisperEncoder, load_whisper
from edgeemo.train.head import HeadRecipe, Moments, Summaries, fit_head, gather, tune_head
from edgeemo.train.mix import Mix, Pool, Row, Rows
from edgeemo.train.precision import bfloat16_products
from edgeemo.train.start import begin_with_whisper
from edgeemo.train.sureness import Steps, errors, fit_sureness, sessions

DELAY = 100  # samples by which the student hears later than Whisper, whose frames are centred: 12.5 ms
# Whisper's layers that the student's last one follows: the same one, and its last, which tells emotions better. As in
# DistilHuBERT (Chang et al. 2022).
FOLLOWED = (2, 4)
MOST_OFTEN = 10  # times that a clip is in a session, on average: own calls may be few


@dataclass(frozen=True)
class ListenerRecipe:
    """Recipe of `edgeemo train` for CosyVoice-Tiny; printed at the start and kept in the training report."""

    updates: int = 700  # of the encoder; 0: it stays, and its classifier goes on to learn
    rows: int = 20  # a batch
    steps: int = 32  # a row, 5.12 s: the global path's 4 s and more
    peak_lr: float = 1.5e-4  # of what comes from Whisper
    new_lr: float = 5e-4  # of what does not
    weight_decay: float = 0.02
    unlabelled: float = 0.35  # share of rows that are speech without labels
    line: float = 0.5  # share of rows through each part of the telephone line
    noise: tuple[float, float] = (3.0, 40.0)  # dB under the speech, where there is noise
    deep_loss: float = 0.5  # weight of the distance from Whisper's last layer
    average: float = 0.99
    every: int = 100  # updates from one line of the log, and one state to go on from, to the next
    half: bool = True  # matrix products in bfloat16, where the processor has it
    sessions: int = HeadRecipe.sessions  # for the classifier
    seed: int = 1


class Teacher:
    """Whisper's encoder on the clean row: its states as tokens of 40 ms, without their positions."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        self.encoder = encoder.requires_grad_(False)
        self.scale: Tensor | None = None

    def mel(self, pcm: Tensor) -> Tensor:
        """Whisper's log-mel (B, 80, frames) of pcm at 8 kHz, its loudest band at 1.0, at the student's times."""
        mel = self.encoder.log_mel(_doubled(F.pad(pcm, (DELAY, 0))[:, : pcm.shape[1]]))
        return (mel - mel.amax(dim=(1, 2), keepdim=True)).clamp(min=-2.0) + 1.0

    @torch.no_grad()
    def states(self, rows: Rows, half: bool) -> Tensor:
        """(B, tokens, len(FOLLOWED) * width), each channel in units of its deviation over the first rows that were asked for."""
        mel = self.mel(rows.pcm)
        positions = self.encoder.positions[rows.began[:, None] + torch.arange(mel.shape[2] // 2)]
        with bfloat16_products(half):
            heard = self.encoder.encode(mel, positions)
        x = torch.cat([heard[i - 1].float() - positions for i in FOLLOWED], dim=2)
        x = x.reshape(len(x), -1, 2, x.shape[2]).mean(dim=2)
        if self.scale is None:
            self.scale = x.flatten(0, 1).std(dim=0).clamp(min=1e-3)
        return x / self.scale


def _doubled(pcm: Tensor) -> Tensor:
    """At twice the rate, by a spectrum of zeros above."""
    spectrum = torch.fft.rfft(pcm)
    return torch.fft.irfft(F.pad(spectrum, (0, spectrum.shape[1] - 1)), 2 * pcm.shape[1]) * 2.0


class Lesson(nn.Module):
    """The model next to what only training needs: a linear map from its last tokens to the teacher's states."""

    def __init__(self, model: CosyVoiceTiny, scale: Tensor) -> None:
        super().__init__()
        self.model = model
        self.map = nn.Linear(model.config.d_model, len(scale))
        with torch.no_grad():  # it begins as what standardises the states
            parts = scale.split(model.config.d_model)
            self.map.weight.copy_(torch.cat([torch.diag(1.0 / part) for part in parts]))
            self.map.bias.zero_()

    def loss(self, rows: Rows, line: Tensor, states: Tensor, half: bool) -> Tensor:
        """Mean distances (len(FOLLOWED),) from the teacher's states, of rows that came through a ``line`` (B, samples)."""
        m, steps = self.model, line.shape[1] // self.model.config.step_samples
        state = m.initial_state(len(line))
        angle = rows.began[:, None] * m.positions.turn
        state["position"] = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1).float() - m.positions.begin
        features = m.features(line, state, steps)[0]
        with bfloat16_products(half):
            layers, _ = m.tokens(features, state, steps)
        apart = (self.map(layers[-1].float()) - states).abs().mean(dim=(0, 1))
        return apart.reshape(len(FOLLOWED), -1).mean(dim=1)


def scores(rows: list[Row], probabilities: np.ndarray) -> dict[str, float]:
    """Macro-F1 over the classes that there are: of all clips, of each corpus, and the corpora's mean."""
    label, answer = np.array([r.label for r in rows]), probabilities.argmax(axis=1)
    corpus = np.array([r.corpus for r in rows])

    def f1(keep: np.ndarray) -> float:
        return macro_f1(confusion_matrix(label[keep], answer[keep], len(LABELS)))

    found = {str(c): f1(corpus == c) for c in np.unique(corpus)}
    return {"all": f1(np.ones(len(rows), dtype=bool)), "mean": float(np.mean(list(found.values()))), **found}


def _groups(lesson: Lesson, recipe: ListenerRecipe) -> list[dict[str, Any]]:
    """Whisper's matrices slowly, what is new faster; filters and distances do not decay."""
    new = ("map.", "model.emotion_conv", "model.frontend", "distance")
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, p in lesson.named_parameters():
        if not name.startswith("model.head"):
            matrix = p.ndim >= 2 and not any(part in name for part in ("filters", "distance"))
            groups.setdefault((any(part in name for part in new), matrix), []).append(p)
    return [
        {"params": ps, "lr": recipe.new_lr if is_new else recipe.peak_lr, "weight_decay": recipe.weight_decay if matrix else 0.0}
        for (is_new, matrix), ps in groups.items()
    ]


def follow(lesson: Lesson, teacher: Teacher, mix: Mix, recipe: ListenerRecipe, state: Path, resume: bool) -> CosyVoiceTiny:
    """The averaged model after ``updates``; ``state`` is a file from which a run that was cut off goes on."""
    channel, averaged = TelephoneChannel(recipe.seed, recipe.line, recipe.noise), copy.deepcopy(lesson.model)
    weight = torch.tensor([1.0, recipe.deep_loss])
    optimizer = torch.optim.AdamW(_groups(lesson, recipe), betas=(0.9, 0.98))
    rates = [g["lr"] for g in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, recipe.updates, pct_start=0.06, cycle_momentum=False)
    parts: dict[str, Any] = {"lesson": lesson, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    done, total, began = 0, torch.zeros(len(FOLLOWED)), time.monotonic()
    if resume and state.is_file():
        kept = torch.load(state, weights_only=False)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        mix.rng, done = kept["rng"], kept["done"]
    for update in range(done, recipe.updates):
        rows = mix.batch(recipe.rows)
        distance = lesson.loss(rows, channel(rows.pcm), teacher.states(rows, recipe.half), recipe.half)
        optimizer.zero_grad()
        (distance @ weight).backward()
        nn.utils.clip_grad_norm_(lesson.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += distance.detach()
        with torch.no_grad():
            for a, p in zip(averaged.parameters(), lesson.model.parameters(), strict=True):
                a.lerp_(p, 1 - min(recipe.average, (1 + update) / (10 + update)))
        if (update + 1) % recipe.every and update + 1 < recipe.updates:
            continue
        mean = ", ".join(f"{d:.4f}" for d in total / (update % recipe.every + 1))
        print(
            f"update {update + 1:5}/{recipe.updates}  distance {mean}  {time.monotonic() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        total.zero_()
        kept = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**kept, "rng": mix.rng, "done": update + 1}, state.with_suffix(".partial"))
        os.replace(state.with_suffix(".partial"), state)
    return averaged.eval()


def _follow_whisper(
    model: CosyVoiceTiny, begin: bool, mix: Mix, recipe: ListenerRecipe, state: Path, resume: bool
) -> CosyVoiceTiny:
    """The model after its encoder followed Whisper's; ``begin``: from Whisper's own weights."""
    teacher = Teacher(load_whisper())
    rows = mix.batch(2 * recipe.rows)
    teacher.states(rows, recipe.half)
    assert teacher.scale is not None
    if begin:
        begin_with_whisper(model, teacher.encoder, teacher.mel(rows.pcm))
    return follow(Lesson(model, teacher.scale), teacher, mix, recipe, state, resume)


def train_listener(
    folders: Sequence[Path],
    out: Path,
    recipe: ListenerRecipe,
    threads: int,
    init: Path | None = None,
    unlabelled: Path | None = None,
    resume: bool = False,
) -> dict[str, object]:
    """Trains on the splits ``train`` of ``folders``, fits how sure answers are on their ``dev``, writes weights to ``out``;
    ``resume`` goes on where a run with the same ``out`` was cut off. ``init``: begins with that encoder, and scores that model
    before and after; without updates of the encoder its classifier goes on to learn, too, instead of a new one.

    Raises EdgeEmoError where Whisper's weights are not installed, or ``init`` is of another model.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    model = CosyVoiceTiny() if init is None else load_checkpoint(init)
    if not isinstance(model, CosyVoiceTiny):
        raise EdgeEmoError(f"{init}: is a checkpoint of {model.title}; give --model {model.kind} to go on with it")
    if not recipe.updates and init is None:
        raise EdgeEmoError("without updates of the encoder only a classifier goes on to learn; give the checkpoint to --init")
    c = model.config
    print(f"recipe: {recipe}", file=sys.stderr)
    pool = Pool.load([*folders, *([unlabelled] if unlabelled else [])], c.sample_rate, out.with_suffix(".npy"))
    mix = Mix(pool, recipe.steps, c.step_samples, recipe.unlabelled if unlabelled else 0.0, recipe.seed)
    print(f"clips: {len(mix.labelled)} with labels, {len(mix.others)} without", file=sys.stderr)
    dev = [r for r in pool.of("dev") if r.target is not None]
    if not dev or not mix.labelled:
        raise EdgeEmoError(f"{', '.join(map(str, folders))}: needs labelled clips of the splits train and dev (column split)")
    before = None if init is None else scores(dev, Summaries.of(model, pool, dev).answers(model))
    if recipe.updates:
        model = _follow_whisper(model, init is None, mix, recipe, out.with_suffix(".state"), resume)
    classify = HeadRecipe(sessions=min(recipe.sessions, MOST_OFTEN * len(mix.labelled)), seed=recipe.seed)
    kept = out.with_suffix(".moments")
    if resume and kept.is_file():
        moments = Moments(*torch.load(kept, weights_only=True))
    else:
        moments = gather(model, mix, classify)
        torch.save((moments.pooled, moments.clip), kept)
    model.head = (fit_head if recipe.updates else tune_head)(model, moments, mix, classify)
    model = fit_sureness(replace_intensity(model), Steps.of(model, pool, sessions(dev, c.sample_rate)))
    save_checkpoint(model, out)
    found = scores(dev, Summaries.of(model, pool, dev).answers(model))
    report: dict[str, object] = {"model": model.kind, "recipe": asdict(recipe), "head": asdict(classify)}
    report |= {"dev_before": before} if before else {}
    report |= {"dev": found, "calibration_error": errors(model, Steps.of(model, pool, [[r] for r in dev], ("clean",)))}
    return {**report, "best_dev_macro_f1": round(found["all"], 4), "checkpoint": str(out)}


def replace_intensity(model: CosyVoiceTiny) -> CosyVoiceTiny:
    """The model as one without a head for the strength of anger, which a new classifier does not have yet."""
    made = CosyVoiceTiny(replace(model.config, intensity=False))
    made.load_state_dict(model.state_dict())
    return made.eval()
