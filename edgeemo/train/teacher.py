"""Teachers' view of the training clips: hidden states for the student to follow, and soft labels.

Each clip is heard in several copies of other speeds. A copy keeps the student's audio and, per student token (53 1/3 ms), the
teacher's standardised states; the soft labels of a clip come from classifiers that did not see its speaker, one for each teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from edgeemo_runtime.errors import EdgeEmoError
from torch import Tensor

from edgeemo.console import progress_bar
from edgeemo.data.corpus import CROP_S, SPEEDS, Batch, Corpus, change_speed, unlabelled_pieces
from edgeemo.model.checkpoint import load_checkpoint
from edgeemo.model.config import LABELS
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.whisper import FRAME_SAMPLES, PACKAGES, RATE, WhisperEncoder, load_whisper
from edgeemo.model.whisper_cls import WhisperTinyCls
from edgeemo.train.precision import bfloat16_products

FOLDS = 5
EXTRA_SPEEDS = (0.85, 1.15)  # of speech without labels, each piece heard once
EXTRA_SHARE = 1.0  # as many pieces of it in an epoch as this share of the labelled clips
L2 = 0.03  # of the classifier on standardised features; chosen on dev


FRAME_S = FRAME_SAMPLES / RATE  # of the teacher's states, 20 ms

# Audio (samples,) at the student's rate, whole steps, to the states (frames of 20 ms, width) after each of the teacher's layers.
Listen = Callable[[np.ndarray], list[Tensor]]


def frozen_teacher(encoder: WhisperEncoder, rate: int) -> Listen:
    """Whisper's encoder as it came, on the whole clip."""
    return lambda audio: [s[0] for s in encoder(torch.from_numpy(soxr.resample(audio, rate, RATE))[None])]


def tuned_teacher(model: WhisperTinyCls) -> Listen:
    """The encoder of Whisper-Tiny + CLS, on windows one after another, the last one ending with the clip."""
    c = model.config

    def listen(audio: np.ndarray) -> list[Tensor]:
        pcm = torch.cat([torch.zeros(c.frame - c.hop), torch.from_numpy(audio)])[None]
        mel = torch.nn.functional.pad(model.log_mel(pcm), (0, 0, c.ring_frames, 0))  # silence before the call
        steps = len(audio) // c.step_samples
        parts: list[list[Tensor]] = []
        heard = 0
        while heard < steps:
            end = min(heard + c.window_steps, steps)
            window = mel[:, end * c.frames_per_step : end * c.frames_per_step + c.ring_frames]
            new = (end - heard) * c.frames_per_step // 2  # the encoder halves the frames
            parts.append([s[0, -new:] for s in model.encoder.encode(model.scaled(window).transpose(1, 2))])
            heard = end
        return [torch.cat(states) for states in zip(*parts, strict=True)]

    return listen


def streaming_teacher(model: CosyVoiceTiny) -> Listen:
    """CosyVoice-Tiny's stem and layers, which hear as little ahead as the student."""
    c = model.config
    frames = round(c.step_samples / c.sample_rate / c.tokens_per_step / FRAME_S)  # of 20 ms, of a token of 40

    def listen(audio: np.ndarray) -> list[Tensor]:
        steps, state = len(audio) // c.step_samples, model.initial_state(1)
        features, _, _, _ = model.features(torch.from_numpy(audio)[None], state, steps)
        states, _ = model.tokens(features, state, steps)
        return [s[0].repeat_interleave(frames, dim=0) for s in states]

    return listen


def load_teacher(name: str, rate: int) -> Listen:
    """``whisper``, ``whisper-base``: an installed package's encoder; a folder: that of a CTranslate2 Whisper; else a checkpoint
    of CosyVoice-Tiny or Whisper-Tiny + CLS. Raises EdgeEmoError for another."""
    if name in PACKAGES or Path(name).is_dir():
        return frozen_teacher(load_whisper(name), rate)
    model = load_checkpoint(name)
    if model.config.sample_rate == rate and isinstance(model, CosyVoiceTiny):
        return streaming_teacher(model)
    if model.config.sample_rate == rate and isinstance(model, WhisperTinyCls):
        return tuned_teacher(model)
    raise EdgeEmoError(
        f"{name}: is a checkpoint of {model.title}; a teacher is `whisper`, `whisper-base`, a folder with a CTranslate2 "
        "Whisper, or a checkpoint of cosyvoice-tiny or whisper-tiny-cls"
    )


@dataclass
class Lesson:
    """One copy of one clip: audio float32 (S * 1280,) at the student's rate, states float16 (3 S, layers * width)."""

    audio: np.ndarray
    states: Tensor


def token_pooling(steps: int, tokens_per_step: int, step_s: float) -> Tensor:
    """Weights (tokens, teacher frames) that average over each token the teacher frames it overlaps; rows sum to 1."""
    frames, tokens = round(step_s / FRAME_S), tokens_per_step  # per step
    edges = np.arange(tokens + 1) * frames / tokens
    start, end = edges[:-1, None], edges[1:, None]
    overlap = np.clip(np.minimum(end, np.arange(1, frames + 1)) - np.maximum(start, np.arange(frames)), 0, None)
    one = torch.from_numpy((overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32))
    return torch.block_diag(*[one] * steps)


def teach(
    teachers: Sequence[Listen],
    audio: Sequence[np.ndarray],
    layers: Sequence[float],
    rate: int,
    step_samples: int,
    tokens_per_step: int,
    speeds: np.ndarray,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[list[Lesson], list[np.ndarray]]:
    """One lesson per clip at its speed, with the first teacher's states after ``layers`` (1: its last, 0.5: the one half way)
    not yet standardised; and for each teacher the clips' summary for a classifier: mean and standard deviation over time of every
    layer, float32 (clips, 2 * layers * width)."""
    lessons: list[Lesson] = []
    summaries: list[list[np.ndarray]] = [[] for _ in teachers]
    for samples, speed in zip(audio, speeds, strict=True):
        heard = change_speed(samples, float(speed))
        steps = -(-len(heard) // step_samples)
        padded = np.zeros(steps * step_samples, dtype=np.float32)
        padded[: len(heard)] = heard
        real = math.ceil(len(heard) / rate / FRAME_S)
        # States are kept in 16 bits anyway.
        with torch.inference_mode(), bfloat16_products():
            told = [[s.float() for s in teacher(padded)] for teacher in teachers]
        pooling = token_pooling(steps, tokens_per_step, step_samples / rate)
        first = told[0]
        followed = [first[0][:, :0]]  # none: a student of the soft labels alone
        followed += [first[math.ceil(share * len(first)) - 1] for share in layers]
        lessons.append(Lesson(padded, (pooling @ torch.cat(followed, dim=1)).half()))
        for summary, states in zip(summaries, told, strict=True):
            summary.append(torch.cat([f(s[:real], dim=0) for s in states for f in (torch.mean, torch.std)]).numpy())
        advance(1)
    return lessons, [np.stack(s) for s in summaries]


def standardise(lessons: Sequence[Lesson]) -> None:
    """Brings every dimension of the states to mean 0 and deviation 1 over all lessons, in place."""
    total = sum(len(x.states) for x in lessons)
    mean = torch.stack([x.states.double().sum(dim=0) for x in lessons]).sum(dim=0) / total
    variance = torch.stack([(x.states.double() - mean).square().sum(dim=0) for x in lessons]).sum(dim=0) / total
    gain = variance.clamp(min=1e-12).rsqrt()
    for lesson in lessons:
        lesson.states = ((lesson.states.double() - mean) * gain).half()


class Classifier:
    """Multinomial logistic regression on standardised features, class-balanced, L2-regularised, by L-BFGS."""

    def __init__(self, features: np.ndarray, label: np.ndarray, classes: int, l2: float = L2) -> None:
        x, y = torch.from_numpy(features), torch.from_numpy(label)
        self.mean, self.std = x.mean(dim=0), x.std(dim=0, correction=0).clamp(min=1e-6)
        x = (x - self.mean) / self.std
        weight = len(y) / (classes * torch.bincount(y, minlength=classes).clamp(min=1))
        self.w = torch.zeros(x.shape[1], classes, requires_grad=True)
        self.b = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.w, self.b], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = torch.nn.functional.cross_entropy(x @ self.w + self.b, y, weight=weight) + l2 * self.w.square().sum()
            value.backward()
            return value

        optimizer.step(loss)

    def __call__(self, features: np.ndarray) -> Tensor:
        """Probabilities (clips, classes), float32."""
        with torch.inference_mode():
            x = (torch.from_numpy(features) - self.mean) / self.std
            return torch.softmax(x @ self.w + self.b, dim=1)


class SoftLabels:
    """Classifiers by folds of the speakers. A speaker is in one fold; where the manifest names fewer speakers than there are
    folds, clips are dealt out one by one."""

    def __init__(self, features: np.ndarray, label: np.ndarray, speaker: Sequence[str], classes: int) -> None:
        names = sorted(set(speaker))
        fold_of = {s: i % FOLDS for i, s in enumerate(names)}
        fold = np.array([fold_of[s] for s in speaker]) if len(names) >= FOLDS else np.arange(len(speaker)) % FOLDS
        self.fold = fold
        self.classifiers = {i: Classifier(features[fold != i], label[fold != i], classes) for i in np.unique(fold).tolist()}

    def held_out(self, features: np.ndarray) -> Tensor:
        """Soft labels of the labelled clips, in whatever copy: from the classifier of the other folds, float32 (clips,
        classes)."""
        result = torch.empty(len(features), next(iter(self.classifiers.values())).b.shape[0])
        for i, classifier in self.classifiers.items():
            result[torch.from_numpy(self.fold == i)] = classifier(features[self.fold == i])
        return result

    def __call__(self, features: np.ndarray) -> Tensor:
        """Soft labels of speech that none of them has heard: their mean, float32 (pieces, classes)."""
        return torch.stack([classifier(features) for classifier in self.classifiers.values()]).mean(dim=0)


class Lessons:
    """A training set that carries the teacher's answers: batches as Corpus gives them, with states and soft labels.

    Speech without labels may come next to it: of that the student only follows the teacher.
    """

    def __init__(
        self,
        corpus: Corpus,
        teachers: Sequence[Listen],
        layers: Sequence[float],
        copies: int,
        tokens_per_step: int,
        rng: np.random.Generator,
        unlabelled: Path | None = None,
    ) -> None:
        """Runs the ``teachers`` over ``copies`` of every clip (about 1.7 MB a minute and copy; Whisper tiny on one core: 60 times
        real time) and over every piece of a folder of ``unlabelled`` speech. The first gives the states, all of them the soft
        labels."""
        self.tokens, self.step_samples = tokens_per_step, corpus.step_samples
        self.corpus, self.clips, self.label = corpus, corpus.clips, corpus.label
        self.longest = int(CROP_S * corpus.rate) // self.step_samples  # steps
        extra = [] if unlabelled is None else unlabelled_pieces(unlabelled, corpus.rate)
        with progress_bar("teachers listen", copies * len(corpus) + len(extra)) as advance:

            def hear(audio: Sequence[np.ndarray], speeds: np.ndarray) -> tuple[list[Lesson], list[np.ndarray]]:
                return teach(teachers, audio, layers, corpus.rate, self.step_samples, self.tokens, speeds, advance)

            rounds = [np.ones(len(corpus)), *(rng.uniform(*SPEEDS, len(corpus)) for _ in range(copies - 1))]
            heard = [hear(corpus.audio, speeds) for speeds in rounds]
            extra_heard = hear(extra, rng.uniform(*EXTRA_SPEEDS, len(extra))) if extra else None
        self.copies = [lessons for lessons, _ in heard]
        speakers = [c.speaker for c in self.clips]
        graders = [SoftLabels(summary, self.label, speakers, len(LABELS)) for summary in heard[0][1]]

        def graded(summaries: list[np.ndarray], grade: Callable[[SoftLabels, np.ndarray], Tensor]) -> Tensor:
            return torch.stack([grade(g, s) for g, s in zip(graders, summaries, strict=True)]).mean(dim=0)

        self.soft = torch.stack([graded(summaries, SoftLabels.held_out) for _, summaries in heard])
        self.extra = extra_heard[0] if extra_heard else []
        self.extra_soft = graded(extra_heard[1], SoftLabels.__call__) if extra_heard else torch.empty(0)
        standardise([lesson for lessons in [*self.copies, self.extra] for lesson in lessons])

    def __len__(self) -> int:
        """Clips and pieces in an epoch."""
        return len(self.clips) + (int(EXTRA_SHARE * len(self.clips)) if self.extra else 0)

    def draw(self, rng: np.random.Generator) -> list[tuple[int, Lesson, Tensor]]:
        """An epoch in random order: clips as the corpus draws them, each in a random copy, and random pieces without label; with
        its index (-1 for a piece) and its soft labels (7,)."""
        drawn = [(int(i), int(rng.integers(len(self.copies)))) for i in self.corpus.drawn(len(self.clips), rng)]
        epoch = [(i, self.copies[copy][i], self.soft[copy, i]) for i, copy in drawn]
        pieces = rng.integers(max(len(self.extra), 1), size=len(self) - len(self.clips))
        epoch += [(-1, self.extra[int(p)], self.extra_soft[int(p)]) for p in pieces]
        return [epoch[i] for i in rng.permutation(len(epoch))]

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[tuple[Batch, np.ndarray]]:
        """draw()'s, cropped at random to whole steps, with their indices."""
        epoch = self.draw(rng)
        for group in (epoch[i : i + size] for i in range(0, len(epoch), size)):
            index = np.array([i for i, _, _ in group])
            lengths = [len(lesson.audio) // self.step_samples for _, lesson, _ in group]
            steps = [min(n, self.longest) for n in lengths]
            pcm = torch.zeros(len(group), max(steps) * self.step_samples)
            states = torch.zeros(len(group), max(steps) * self.tokens, group[0][1].states.shape[1])
            for row, ((_, lesson, _), n, kept) in enumerate(zip(group, lengths, steps, strict=True)):
                start = int(rng.integers(n - kept + 1))
                audio = lesson.audio[start * self.step_samples : (start + kept) * self.step_samples]
                pcm[row, : len(audio)] = torch.from_numpy(audio)
                states[row, : kept * self.tokens] = lesson.states[start * self.tokens : (start + kept) * self.tokens]
            labelled = torch.from_numpy((index >= 0).astype(np.float32))
            label = torch.from_numpy(np.where(index >= 0, self.label[index], 0))
            soft = torch.stack([soft for _, _, soft in group])
            yield Batch(pcm, torch.tensor(steps), label, states, soft, labelled), index
