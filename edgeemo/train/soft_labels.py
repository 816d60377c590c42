"""Soft labels: what classifiers on the teachers' states hear in clips of speakers whom they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.console import progress_bar
from edgeemo.model.config import LABELS
from edgeemo.model.encoder import SummaryHead
from edgeemo.train.bank import Bank, Planner
from edgeemo.train.mix import Mix, Row
from edgeemo.train.stages import Targets
from edgeemo.train.whisper_states import Teacher


@dataclass(frozen=True)
class SoftRecipe:
    copies: int = 4  # of every clip, at other speeds
    folds: int = 5  # of the speakers
    seeds: int = 2  # classifiers of each fold
    epochs: int = 10
    batch: int = 256
    peak_lr: float = 1e-3
    weight_decay: float = 0.02
    source_loss: float = 0.1
    hidden: tuple[int, int] = (192, 256)
    max_steps: int = 80  # heard of a clip


def summaries(
    teachers: list[Teacher], planner: Planner, bank: Bank, rows: list[Row], recipe: SoftRecipe, advance: Callable[[int], None]
) -> Tensor:
    """Summaries (clips, n) float16 of whole clips at random speeds, all layers of all teachers."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].samples)  # little padding
    found: dict[int, Tensor] = {}
    for first in range(0, len(order), 128):
        group = order[first : first + 128]
        plan, samples = planner.whole([rows[i] for i in group], recipe.max_steps)
        pcm, count = bank(plan)[0], torch.from_numpy(samples).to(bank.device)
        pooled = torch.cat([t.summary(pcm, count) for t in teachers], dim=1).half()
        found |= dict(zip(group, pooled, strict=True))
        advance(len(group))
    return torch.stack([found[i] for i in range(len(rows))])


def _fitted(x: Tensor, target: Tensor, corpus: Tensor, recipe: SoftRecipe, seed: int) -> SummaryHead:
    """A classifier of summaries ``x`` (n, size), with the corpus as a second task."""
    torch.manual_seed(seed)
    head = SummaryHead(x.shape[1], *recipe.hidden, len(LABELS))
    head.set_statistics(x[:: max(1, len(x) // 20000)].float())
    sources = nn.Linear(recipe.hidden[1], int(corpus.max()) + 1)
    optimizer = torch.optim.AdamW([*head.parameters(), *sources.parameters()], recipe.peak_lr, weight_decay=recipe.weight_decay)
    updates = recipe.epochs * -(-len(x) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_lr, total_steps=updates)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(x)).split(recipe.batch):
            seen = head.summarised(x[rows].float())
            loss = -(target[rows] * torch.log_softmax(head.classifier(seen), dim=1)).sum(dim=1).mean()
            loss = loss + recipe.source_loss * F.cross_entropy(sources(seen), corpus[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head.eval()


def _answers(head: SummaryHead, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([torch.softmax(head(part.float()), dim=1) for part in x.split(4096)])


def soft_labels(
    teachers: list[Teacher],
    planner: Planner,
    bank: Bank,
    mix: Mix,
    targets: Targets,
    recipe: SoftRecipe,
    dev: list[Row],
) -> tuple[Tensor, np.ndarray]:
    """Soft labels (clips, 7) of the mix's labelled clips, each the mean over its copies of what the classifiers of the other
    folds answer; and the mean answer of all classifiers to ``dev`` (clips, 7), which says what the teachers are worth.

    A speaker is in one fold; where there are fewer speakers than folds, clips are dealt out one by one.
    """
    with progress_bar("teachers hear all clips", recipe.copies * len(mix.labelled) + len(dev)) as advance:
        heard = [summaries(teachers, planner, bank, mix.labelled, recipe, advance) for _ in range(recipe.copies)]
        of_dev = summaries(teachers, planner, bank, dev, recipe, advance)
    speakers = [r.speaker for r in mix.labelled]
    names = np.random.default_rng(5).permutation(np.unique(speakers)).tolist()
    by_speaker = [names.index(s) for s in speakers]
    fold = torch.tensor(by_speaker if len(names) >= recipe.folds else range(len(speakers)), device=bank.device) % recipe.folds
    weight = torch.from_numpy(mix.chance / mix.chance.mean()).float().to(bank.device).clamp(max=4.0)
    target = targets.of_clip * weight[:, None]
    soft, known = torch.zeros(len(speakers), len(LABELS)), torch.zeros(len(dev), len(LABELS))
    for k in range(recipe.folds):
        own = fold == k
        x, copies = torch.cat([h[~own] for h in heard]), recipe.copies
        for seed in range(recipe.seeds):
            head = _fitted(x, target[~own].repeat(copies, 1), targets.corpus[~own].repeat(copies), recipe, seed)
            soft[own] += torch.stack([_answers(head, h[own]) for h in heard]).mean(dim=0) / recipe.seeds
            known += _answers(head, of_dev) / (recipe.folds * recipe.seeds)
    return soft, known.cpu().numpy()
