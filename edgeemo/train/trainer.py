"""Training CosyVoice-nano: from labelled clips through a telephone line, with SpecAugment, with or without a teacher."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeemo_runtime.errors import EdgeEmoError
from torch import Tensor

from edgeemo.data.corpus import Batch, Corpus
from edgeemo.data.telephone import TelephoneChannel
from edgeemo.evaluate.metrics import confusion_matrix, macro_f1
from edgeemo.model.checkpoint import load_checkpoint
from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.model.streaming import StreamingModel
from edgeemo.train.loop import class_weights, fit, load_sets, smoothed_nll, spec_augment
from edgeemo.train.precision import bfloat16_products
from edgeemo.train.teacher import Lessons, Listen


@dataclass(frozen=True)
class Recipe:
    """Recipe of `edgeemo train`; printed at the start and kept in the training report."""

    epochs: int = 26
    batch: int = 32
    peak_lr: float = 2.2e-4
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    clip_loss: float = 0.5  # weight of the clip loss next to the per-step loss
    average: float = 0.997  # decay of the averaged weights, which are what is selected and saved
    bands_masked: int = 6  # SpecAugment: up to so many bands, twice
    frames_masked: int = 10  # and up to so many frames, twice
    line: float = 0.3  # share of clips through each part of the telephone line
    half: bool = True  # matrix products in bfloat16, where the processor has it
    seed: int = 1
    # With a teacher (train/teacher.py), as measured in docs/training-log.md:
    teacher_layers: tuple[float, ...] = (0.5, 1.0)  # as shares of its depth, followed by the student's last blocks
    copies: int = 3  # of every clip, at other speeds
    state_loss: float = 2.0  # weight of the L1 distance to the teacher's states
    soft_loss: float = 1.0  # weight of the divergence from the teacher's soft labels


def clip_log_probabilities(model: CosyVoiceNano, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the mean step probability (B, 7), step log-probabilities (B, S, 7), and the mask (B, S) of real steps."""
    steps = features.shape[1] // model.config.frames_per_step
    energy = features.new_ones(len(features), steps)  # which this model does not look at
    logits, _ = model.logits(features, energy, model.initial_state(len(features)), steps)
    log_p = torch.log_softmax(logits[..., : len(model.config.labels)].float(), dim=-1)
    real = (torch.arange(steps) < batch.steps[:, None]).float()
    mean = torch.logsumexp(log_p + real.log()[:, :, None], dim=1) - batch.steps.log()[:, None]
    return mean, log_p, real


class Student:
    """The model next to its teacher: linear maps from the tokens after its last blocks to the teacher's states."""

    def __init__(self, model: CosyVoiceNano, layers: int, width: int) -> None:
        self.maps = torch.nn.ModuleList(torch.nn.Linear(model.config.d_model, width // layers) for _ in range(layers))
        self.tokens: list[Tensor] = [torch.empty(0)] * layers
        for i, block in enumerate(list(model.blocks)[-layers:]):
            block.register_forward_hook(lambda _, __, out, i=i: self.tokens.__setitem__(i, out[0]))

    def loss(self, batch: Batch, mean: Tensor, real: Tensor, recipe: Recipe) -> Tensor:
        """After a forward pass: L1 to the teacher's states over real tokens, and the divergence of the clip's mean probability
        from the soft labels."""
        assert batch.states is not None and batch.soft is not None
        answer = torch.cat([f(x.float()) for f, x in zip(self.maps, self.tokens, strict=True)], dim=2)
        mask = real.repeat_interleave(answer.shape[1] // real.shape[1], dim=1)
        distance = ((answer - batch.states).abs().mean(dim=2) * mask).sum() / mask.sum()
        divergence = torch.nn.functional.kl_div(mean, batch.soft, reduction="batchmean")
        return recipe.state_loss * distance + recipe.soft_loss * divergence


def evaluate(model: CosyVoiceNano, corpus: Corpus, size: int = 64) -> float:
    """Macro-F1 of the mean step probability per clip, as `edgeemo eval` counts it: over the steps that have a label, or all where
    a clip ends before."""
    model.eval()
    answer = np.empty(len(corpus.clips), dtype=np.int64)
    with torch.inference_mode():
        for batch, index in corpus.batches(size):
            steps = batch.pcm.shape[1] // corpus.step_samples
            p, spoken, _ = model.answers(batch.pcm, model.initial_state(len(index)), steps)
            real = torch.arange(steps) < batch.steps[:, None]
            labelled = real & (spoken.reshape(-1, steps) >= model.config.least_speech)
            counted = torch.where(labelled.any(dim=1, keepdim=True), labelled, real)
            answer[index] = (p * counted[:, :, None]).sum(dim=1).argmax(dim=1).numpy()
    return macro_f1(confusion_matrix(corpus.label, answer, len(model.config.labels)))


def _set_statistics(model: CosyVoiceNano, corpus: Corpus, size: int) -> None:
    """Standardises the bands over every eighth batch: a few hundred clips of all lengths."""
    c = model.config
    sample = list(corpus.batches(size))
    sample = sample[min(4, len(sample) - 1) :: 8]
    with torch.no_grad():
        parts = [model.features(b.pcm, model.initial_state(len(b.pcm)), b.pcm.shape[1] // c.step_samples)[0] for b, _ in sample]
        model.frontend.set_statistics(torch.cat([p.reshape(-1, c.bands) for p in parts]))


def _parameter_groups(model: CosyVoiceNano, student: Student | None, recipe: Recipe) -> list[dict[str, Any]]:
    # The filterbank is a softplus of large negative numbers: decaying those to zero would open every band to every bin.
    is_decayed = {n: p.ndim >= 2 and "filters" not in n for n, p in model.named_parameters()}
    decayed = [p for n, p in model.named_parameters() if is_decayed[n]]
    others = [p for n, p in model.named_parameters() if not is_decayed[n]]
    others += list(student.maps.parameters()) if student else []
    return [
        {"params": decayed, "lr": recipe.peak_lr, "weight_decay": recipe.weight_decay},
        {"params": others, "lr": recipe.peak_lr, "weight_decay": 0.0},
    ]


def train(
    folders: Sequence[Path],
    out: Path,
    recipe: Recipe,
    threads: int,
    init: Path | None = None,
    teachers: Sequence[Listen] = (),
    unlabelled: Path | None = None,
) -> dict[str, object]:
    """Trains on the split ``train`` of ``folders``, keeps the best averaged weights on ``dev``, writes them to ``out``.

    With ``teachers`` the student also follows the first one's hidden states and the soft labels of all (distillation), those of a
    folder of ``unlabelled`` speech, too.
    ``init`` continues from a checkpoint: its weights and band statistics, a new cycle of the learning rate. Same folders, recipe,
    start and thread count give the same weights. Returns the report: recipe, dev scores per epoch, best.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = CosyVoiceNano() if init is None else load_checkpoint(init)
    if not isinstance(model, CosyVoiceNano):
        raise EdgeEmoError(f"{init}: is a checkpoint of {model.title}; give --model {model.kind} to go on with it")
    c = model.config
    print(f"recipe: {recipe}", file=sys.stderr)
    train_set, dev_set = load_sets(folders, c.sample_rate, c.step_samples)
    if init is None:
        _set_statistics(model, train_set, recipe.batch)
    lessons: Corpus | Lessons = train_set
    student = None
    if teachers:
        lessons = Lessons(train_set, teachers, recipe.teacher_layers, recipe.copies, c.tokens_per_step, rng, unlabelled)
        student = Student(model, len(recipe.teacher_layers), lessons.copies[0][0].states.shape[1])
    weight = class_weights(train_set.label, len(c.labels), train_set.chance * len(train_set))
    channel = TelephoneChannel(recipe.seed, recipe.line)
    groups = _parameter_groups(model, student, recipe)

    def losses() -> Iterator[Tensor]:
        for batch, _ in lessons.batches(recipe.batch, rng):
            steps = batch.pcm.shape[1] // c.step_samples
            features, _, _, _ = model.features(channel(batch.pcm), model.initial_state(len(batch.pcm)), steps)
            # Features are standardised: zero is the mean.
            masked = spec_augment(features, recipe.bands_masked, recipe.frames_masked, torch.zeros(()), rng)
            with bfloat16_products(recipe.half):
                mean, log_p, real = clip_log_probabilities(model, masked, batch)
            labelled = torch.ones(len(mean)) if batch.labelled is None else batch.labelled
            known = real * labelled[:, None]
            clip_loss = smoothed_nll(mean, batch.label, recipe.label_smoothing, weight) @ labelled / labelled.sum().clamp(min=1)
            targets = batch.label[:, None].expand(-1, steps)
            step_loss = (smoothed_nll(log_p, targets, recipe.label_smoothing, weight) * known).sum() / known.sum().clamp(min=1)
            loss = step_loss + recipe.clip_loss * clip_loss
            yield loss if student is None else loss + student.loss(batch, mean, real, recipe)

    def score(averaged: StreamingModel) -> float:
        assert isinstance(averaged, CosyVoiceNano)
        return evaluate(averaged, dev_set)

    report = fit(model, groups, losses, -(-len(lessons) // recipe.batch), recipe.epochs, recipe.average, score, out)
    return {"recipe": asdict(recipe), **report}
