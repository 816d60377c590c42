"""Stages of training CosyVoice-Tiny: it follows Whisper, a classifier is fitted to what it hears, and both go on together."""

from __future__ import annotations

import copy
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.data.telephone import TelephoneChannel
from edgeemo.model.config import LABELS
from edgeemo.model.cosyvoice_tiny import SUMMARY_STATES, CosyVoiceTiny
from edgeemo.model.encoder import SummaryHead
from edgeemo.train.bank import Bank, Plan, Planner
from edgeemo.train.head import MIN_AFTER, MIN_STEPS
from edgeemo.train.mix import Mix, Rows
from edgeemo.train.precision import bfloat16_products
from edgeemo.train.whisper_states import Teacher

NEW_PARTS = ("maps.", "model.emotion_conv", "model.frontend", "distance")  # what did not come from Whisper


@dataclass(frozen=True)
class Stage:
    """One stage; rates are peaks of one cosine over its updates, or over its time where that is up before."""

    name: str
    updates: int
    seconds: float = math.inf
    rows: int = 256  # of a batch without labels
    alone: int = 192  # of one with labels: rows of one clip
    sessions: int = 64  # and rows as calls are
    steps: int = 32  # of a row of one clip or without labels, 5.12 s: the global path's 4 s and more
    session_steps: int = 80
    encoder_lr: float = 0.0  # of what came from Whisper; 0: the encoder stays as it is
    new_lr: float = 0.0  # of what did not
    head_lr: float = 0.0  # 0: no labels
    follow: float = 1.0  # weight of the distance from the teachers' states
    deep: float = 0.5  # of that from any layer but the one that the model's last began as
    source_loss: float = 0.1  # of the second task, telling which corpus a clip is from
    line: float = 0.5  # share of rows through each part of the telephone line
    noise: tuple[float, float] = (3.0, 40.0)  # dB under the speech, where there is noise
    weight_decay: float = 0.02
    average: float = 0.99
    every_s: float = 60.0  # from one line of the log, and one state to go on from, to the next
    seed: int = 1


def heard(m: CosyVoiceTiny, pcm: Tensor, began: Tensor) -> tuple[Tensor, Tensor]:
    """Last tokens (B, 4 S, d) and summaries (B, S, n) of calls pcm (B, S * 1280) that begin at Whisper's positions ``began``
    (B,)."""
    steps = pcm.shape[1] // m.config.step_samples
    state = m.initial_state(len(pcm))
    angle = began[:, None] * m.positions.turn
    state["position"] = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1).float() - m.positions.begin
    features, energy, _, _ = m.features(pcm, state, steps)
    with bfloat16_products():
        layers, _ = m.tokens(features, state, steps)
    layers = [x.float() for x in layers]
    # Without the gradient of the energy's root: it is infinite where a step is silent.
    return layers[-1], m.summary(layers, energy.detach(), [state[n] for n in SUMMARY_STATES], steps)[0]


class Targets:
    """Target distributions of a plan's steps, (7,) each, with the classes' weights in them."""

    def __init__(self, mix: Mix, device: str) -> None:
        self.device, self.label = device, np.array([r.label for r in mix.labelled])
        self.class_weight = mix.class_weight.to(device)
        self.of_clip = torch.tensor([r.target for r in mix.labelled], dtype=torch.float32, device=device) * self.class_weight
        self.corpus = torch.tensor([mix.corpora.index(r.corpus) for r in mix.labelled], device=device)

    def soften(self, soft: Tensor, share: float) -> None:
        """Makes ``share`` of every clip's target what teachers heard in it: ``soft`` (clips, 7)."""
        self.of_clip.lerp_(soft.to(self.device) * self.class_weight, share)

    def counted(self, plan: Plan, piece: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The labelled clip of each step (B, S) and the step's weight (B, S), from the ``piece`` that it ends in: a step counts
        once enough was heard of its emotion, and rows count alike."""
        row = np.arange(len(piece))[:, None]
        clip = np.where(piece >= 0, plan.clip[row, np.maximum(piece, 0)], -1)
        label = np.where(clip >= 0, self.label[clip], -1)
        weight = np.zeros(piece.shape, dtype=np.float32)
        since, least = np.zeros(len(piece), dtype=np.int64), np.full(len(piece), MIN_STEPS)
        for s in range(piece.shape[1]):
            changed = label[:, s] != label[:, max(s - 1, 0)]
            least = np.where(changed, MIN_AFTER, least)
            since = np.where(changed, 1, since + 1)
            weight[:, s] = (label[:, s] >= 0) & (since >= least)
        return clip, weight / np.maximum(weight.sum(axis=1, keepdims=True), 1.0)


class Lesson(nn.Module):
    """The model next to what only training needs: linear maps from its last tokens to the teachers' states, and a second task."""

    def __init__(self, model: CosyVoiceTiny, teachers: list[Teacher], corpora: int) -> None:
        super().__init__()
        d = model.config.d_model
        self.model, self.maps = model, nn.ModuleList()
        for teacher in teachers:
            to = nn.Linear(d, len(teacher.scale))
            self.maps.append(to)
            if teacher.width == d:  # it begins as what standardises the states
                with torch.no_grad():
                    to.weight.copy_(torch.cat([torch.diag(1.0 / part) for part in teacher.scale.split(d)]))
                    to.bias.zero_()
        self.sources = nn.Linear(model.config.summary, corpora)


class Learner:
    """A model in training, its averaged copy, and what it learns from."""

    def __init__(self, lesson: Lesson, teachers: list[Teacher], planner: Planner, bank: Bank, targets: Targets) -> None:
        self.lesson, self.teachers, self.planner, self.bank, self.targets = lesson, teachers, planner, bank, targets
        self.device = bank.device
        self.averaged = copy.deepcopy(lesson.model)
        self.followed = sum(len(t.followed) for t in teachers)

    def new_head(self, stage: Stage) -> None:
        """A classifier that knows nothing, standardised to what the encoder hears."""
        m, c = self.lesson.model, self.lesson.model.config
        m.head = SummaryHead(m.head.mean.numel(), c.hidden, c.summary, len(LABELS)).to(self.device)
        channel, parts = self._channel(stage), []
        plans = self.planner.alone(2 * stage.alone, stage.steps), self.planner.sessions(2 * stage.sessions, stage.session_steps)
        with torch.no_grad():
            for plan in plans:
                pcm, piece = self.bank(plan)
                summary = heard(m, channel(pcm), self._began(plan))[1]
                inside = piece >= 0
                inside[:, :MIN_STEPS] = False
                parts.append(summary[inside])
        m.head.set_statistics(torch.cat(parts))
        self.averaged = copy.deepcopy(m)

    def _channel(self, stage: Stage) -> TelephoneChannel:
        return TelephoneChannel(stage.seed, stage.line, stage.noise, self.device)

    def _began(self, plan: Plan) -> Tensor:
        return torch.from_numpy(plan.began).to(self.device)

    def _groups(self, stage: Stage) -> list[dict[str, Any]]:
        """Whisper's matrices slowly, what is new faster; filters and distances do not decay. What has no rate stays."""
        groups: dict[tuple[float, bool], list[Tensor]] = {}
        for name, p in self.lesson.named_parameters():
            of_head = name.startswith(("model.head", "sources"))
            rate = stage.head_lr if of_head else stage.new_lr if any(n in name for n in NEW_PARTS) else stage.encoder_lr
            p.requires_grad_(rate > 0)
            if rate > 0:
                matrix = p.ndim >= 2 and not any(part in name for part in ("filters", "distance"))
                groups.setdefault((rate, matrix), []).append(p)
        return [
            {"params": ps, "lr": rate, "peak": rate, "weight_decay": stage.weight_decay if matrix else 0.0}
            for (rate, matrix), ps in groups.items()
        ]

    def _losses(self, stage: Stage, channel: TelephoneChannel) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch's loss, and its parts: distances, then the loss of labels."""
        if not stage.head_lr:
            plan = self.planner.full(stage.rows, stage.steps)
            pcm, _ = self.bank(plan)
            last, _ = heard(self.lesson.model, channel(pcm), self._began(plan))
            apart = self._distances(last, Rows(pcm, self._began(plan)), None)
            yield self._followed(stage, apart), torch.cat([apart, apart.new_zeros(1)])
            return
        plans = self.planner.alone(stage.alone, stage.steps), self.planner.sessions(stage.sessions, stage.session_steps)
        for plan in plans:
            pcm, piece = self.bank(plan)
            share, apart = len(pcm) / (stage.alone + stage.sessions), torch.zeros(self.followed, device=self.device)
            with torch.set_grad_enabled(stage.encoder_lr > 0):
                last, summary = heard(self.lesson.model, channel(pcm), self._began(plan))
            if stage.encoder_lr > 0 and stage.follow > 0:
                apart = self._distances(last, Rows(pcm, self._began(plan)), (piece >= 0).float())
            label = self._label_loss(stage, summary, *self.targets.counted(plan, piece.cpu().numpy()))
            loss = label + stage.follow * self._followed(stage, apart)
            yield loss * share, torch.cat([apart, label.reshape(1)]) * share

    def _followed(self, stage: Stage, apart: Tensor) -> Tensor:
        return apart[0] + stage.deep * apart[1:].sum()

    def _distances(self, last: Tensor, rows: Rows, mask: Tensor | None) -> Tensor:
        """Mean distance from each of the states that are followed, of steps whose ``mask`` (B, S) is one."""
        if mask is None:
            mask = torch.ones(len(last), 1, device=self.device)
        mask = mask.repeat_interleave(last.shape[1] // mask.shape[1], dim=1)
        found = []
        for teacher, to in zip(self.teachers, self.lesson.maps, strict=True):
            states = teacher.states(rows)
            with bfloat16_products():
                apart = (to(last).float() - states).abs()
            apart = apart.reshape(*mask.shape, len(teacher.followed), -1).mean(dim=3)
            found.append((apart * mask[:, :, None]).sum(dim=(0, 1)) / mask.sum())
        return torch.cat(found)

    def _label_loss(self, stage: Stage, summary: Tensor, clip: np.ndarray, weight: np.ndarray) -> Tensor:
        head, at = self.lesson.model.head, np.nonzero(weight)
        place = tuple(torch.from_numpy(i).to(self.device) for i in at)
        clips, weights = (torch.from_numpy(x[at]).to(self.device) for x in (clip, weight))
        seen = head.summarised(summary[place])
        loss = -(self.targets.of_clip[clips] * torch.log_softmax(head.classifier(seen), dim=1)).sum(dim=1)
        loss = loss + stage.source_loss * F.cross_entropy(self.lesson.sources(seen), self.targets.corpus[clips], reduction="none")
        return (loss * weights).sum() / weights.sum()

    def run(self, stage: Stage, score: Callable[[CosyVoiceTiny], str], state: Path | None = None, resume: bool = False) -> None:
        """Trains until its updates are done or its time is up; the averaged weights are the result. ``state``: a file in which to
        keep what ``resume`` goes on from."""
        torch.manual_seed(stage.seed)
        channel, m = self._channel(stage), self.lesson.model
        optimizer = torch.optim.AdamW(self._groups(stage), betas=(0.9, 0.98), fused=self.device == "cuda")
        self.averaged.load_state_dict(m.state_dict())
        parts: dict[str, Any] = {"lesson": self.lesson, "averaged": self.averaged, "optimizer": optimizer}
        update, spent = _load(state, stage, parts, self.planner) if resume and state else (0, 0.0)
        losses, count, began = torch.zeros(self.followed + 1, device=self.device), 0, time.monotonic() - spent
        reported = time.monotonic()
        m.train()
        while (share := max(update / stage.updates, (time.monotonic() - began) / stage.seconds)) < 1.0:
            losses += self._update(stage, channel, optimizer, share)
            update, count = update + 1, count + 1
            with torch.no_grad():
                rate = 1 - min(stage.average, (1 + update) / (10 + update))
                torch._foreach_lerp_(list(self.averaged.parameters()), list(m.parameters()), rate)
            if time.monotonic() - reported > stage.every_s or update == stage.updates:
                self._report(stage, update, losses / count, time.monotonic() - began, score)
                losses.zero_()
                count, reported = 0, time.monotonic()
                if state:
                    _save(state, stage, update, reported - began, parts, self.planner)
        m.load_state_dict(self.averaged.state_dict())

    def _update(self, stage: Stage, channel: TelephoneChannel, optimizer: torch.optim.Optimizer, share: float) -> Tensor:
        """One update at ``share`` of the stage; the losses."""
        for g in optimizer.param_groups:
            g["lr"] = g["peak"] * min(1.0, (share + 1 / stage.updates) / 0.05) * (0.5 + 0.5 * math.cos(math.pi * share))
        optimizer.zero_grad()
        total = torch.zeros(self.followed + 1, device=self.device)
        for loss, made_of in self._losses(stage, channel):
            loss.backward()
            total += made_of.detach()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        return total

    def _report(self, stage: Stage, update: int, losses: Tensor, spent: float, score: Callable[[CosyVoiceTiny], str]) -> None:
        *apart, label = losses.tolist()
        said = [f"distance {', '.join(f'{x:.4f}' for x in apart)}"] if stage.encoder_lr else []
        said += [f"loss {label:.4f}  {score(self.averaged.eval())}"] if stage.head_lr else []
        print(f"{stage.name} {update:5}/{stage.updates}  {spent:.0f} s  {'  '.join(said)}", file=sys.stderr, flush=True)


def _save(state: Path, stage: Stage, update: int, spent: float, parts: dict[str, Any], planner: Planner) -> None:
    kept = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**kept, "stage": stage.name, "update": update, "spent": spent, "rng": planner.rng}, state.with_suffix(".partial"))
    os.replace(state.with_suffix(".partial"), state)


def _load(state: Path, stage: Stage, parts: dict[str, Any], planner: Planner) -> tuple[int, float]:
    """Updates done and seconds spent of ``stage`` by what ``state`` keeps; nothing where it is of another stage."""
    kept = torch.load(state, weights_only=False) if state.is_file() else {}
    if kept.get("stage") != stage.name:
        return 0, 0.0
    for name, part in parts.items():
        part.load_state_dict(kept[name])
    planner.follow(kept["rng"])
    return kept["update"], kept["spent"]
