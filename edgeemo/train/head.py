"""The classifier of CosyVoice-Tiny on an encoder that stays as it is: many copies of every clip cost little then."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeemo.data.telephone import TelephoneChannel
from edgeemo.model.config import LABELS
from edgeemo.model.cosyvoice_tiny import SUMMARY_STATES, CosyVoiceTiny
from edgeemo.model.encoder import SummaryHead
from edgeemo.train.mix import Mix, Pool, Row
from edgeemo.train.precision import bfloat16_products
from edgeemo.train.sureness import last_steps

MIN_STEPS = 3  # of a clip before its summary is one to learn from
MIN_AFTER = 9  # and of what comes after another emotion


@dataclass(frozen=True)
class HeadRecipe:
    """Chosen on dev."""

    sessions: int = 12000  # clips in a call (mix.Mix.session), at other speeds, on other lines
    moments: int = 6  # of every session, its end among them
    batch: int = 256
    weight_decay: float = 0.02
    line: float = 0.4
    noise: tuple[float, float] = (3.0, 40.0)
    peak_lr: float = 3e-4
    epochs: int = 4
    kept: float = 0.5  # of the weights before
    seed: int = 1


@dataclass
class Moments:
    """Summaries (n, size) and the clips that they are of (n,), by their place in a list."""

    pooled: Tensor
    clip: Tensor


def summaries(model: CosyVoiceTiny, pcm: Tensor) -> tuple[Tensor, Tensor]:
    """Features of every step of calls that begin with ``pcm`` (B, S * 1280): (B, S, size), and the steps of speech so far (B,
    S)."""
    steps, state = pcm.shape[1] // model.config.step_samples, model.initial_state(len(pcm))
    features, energy, spoken, _ = model.features(pcm, state, steps)
    with bfloat16_products():
        layers, _ = model.tokens(features, state, steps)
    return model.summary([x.float() for x in layers], energy, [state[n] for n in SUMMARY_STATES], steps)[0], spoken


def gather(model: CosyVoiceTiny, mix: Mix, recipe: HeadRecipe, size: int = 32) -> Moments:
    """Moments of sessions of the labelled clips, drawn as often as the mix draws them."""
    rng, channel = np.random.default_rng(recipe.seed), TelephoneChannel(recipe.seed, recipe.line, recipe.noise)
    step, parts, clips = model.config.step_samples, [], []
    count = recipe.sessions
    drawn = rng.choice(len(mix.labelled), count, p=mix.chance)
    sessions = [mix.session(mix.labelled[i]) for i in drawn]
    order = np.argsort([sum(r.samples for r in rows) for rows, _ in sessions], kind="stable")  # little padding
    model.eval()
    with torch.inference_mode():
        for places in np.split(order, range(size, count, size)):
            group = drawn[places]
            pieces = [[mix.heard(r) for r in sessions[k][0]] for k in places]
            begins = [sum(map(len, p[: sessions[k][1]])) // step for p, k in zip(pieces, places, strict=True)]
            heard = [np.concatenate(p) for p in pieces]
            counts = [-(-len(a) // step) for a in heard]
            pcm = torch.zeros(len(group), max(counts) * step)
            for row, audio in enumerate(heard):
                pcm[row, : len(audio)] = torch.from_numpy(audio)
            pooled, _ = summaries(model, channel(pcm))
            for row, n in enumerate(counts):
                first = min(begins[row] + (MIN_AFTER if begins[row] else MIN_STEPS), n - 1)
                at = [n - 1, *rng.integers(first, n, recipe.moments - 1)]
                parts.append(pooled[row, at].half())
                clips += [int(group[row])] * len(at)
    return Moments(torch.cat(parts).clone(), torch.tensor(clips))


def tune_head(model: CosyVoiceTiny, moments: Moments, mix: Mix, recipe: HeadRecipe) -> SummaryHead:
    """The model's own head, without one for the strength of anger, after it learned from ``moments``.

    It is the mean of its weights then and before, so that what it knew is not lost (WiSE-FT; Wortsman et al. 2022).
    """
    torch.manual_seed(recipe.seed)
    c = model.config
    before = SummaryHead(moments.pooled.shape[1], c.hidden, c.summary, len(LABELS))
    own = model.head.state_dict()
    before.load_state_dict({k: v[: len(LABELS)] if k.startswith("classifier") else v for k, v in own.items()})
    head = copy.deepcopy(before).train()
    target = torch.tensor([r.target for r in mix.labelled], dtype=torch.float32) * mix.class_weight
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe.peak_lr, weight_decay=recipe.weight_decay)
    batches = -(-len(moments.clip) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_lr, total_steps=batches * recipe.epochs)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(moments.clip)).split(recipe.batch):
            loss = -(target[moments.clip[rows]] * torch.log_softmax(head(moments.pooled[rows].float()), dim=1)).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        for new, old in zip(head.parameters(), before.parameters(), strict=True):
            new.lerp_(old, recipe.kept)
    return head.eval()


@dataclass
class Summaries:
    """All steps of some clips: summaries (n, size) as float16, the steps of speech so far (n,), the clip of each (n,)."""

    rows: list[Row]
    pooled: Tensor
    spoken: Tensor
    clip: Tensor

    @classmethod
    def of(cls, model: CosyVoiceTiny, pool: Pool, rows: list[Row], size: int = 32) -> Summaries:
        step, parts, speech, clips = model.config.step_samples, list[Tensor](), list[Tensor](), list[int]()
        order = np.argsort([-r.samples for r in rows], kind="stable")
        model.eval()
        with torch.inference_mode():
            for group in np.split(order, range(size, len(order), size)):
                counts = [-(-rows[i].samples // step) for i in group]
                pcm = torch.zeros(len(group), max(counts) * step)
                for k, i in enumerate(group):
                    pcm[k, : rows[i].samples] = torch.from_numpy(pool.audio(rows[i]))
                pooled, spoken = summaries(model, pcm)
                for k, n in enumerate(counts):
                    parts.append(pooled[k, :n].half())
                    speech.append(spoken[k, :n])
                    clips += [int(group[k])] * n
        return cls(rows, torch.cat(parts).clone(), torch.cat(speech).clone(), torch.tensor(clips))

    def answers(self, model: CosyVoiceTiny) -> np.ndarray:
        """Probabilities after each clip's last step (clips, 7), by the head and the sureness of ``model``."""
        last = last_steps(self.clip)
        with torch.inference_mode():
            logits = model.head(self.pooled[last].float())[:, : len(LABELS)]
            p = torch.softmax(logits * model.sureness(self.spoken[last])[:, None], dim=1)
        answers = torch.zeros(len(self.rows), len(LABELS), device=p.device)
        answers[self.clip[last]] = p
        return answers.cpu().numpy()
