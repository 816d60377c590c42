"""Training the windowed models, Whisper-Tiny + CLS and MFCC + BiLSTM: one window of each clip, as a call would show it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from edgeemo_runtime.errors import EdgeEmoError
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.console import progress_bar
from edgeemo.data.corpus import Corpus, change_speed
from edgeemo.data.telephone import TelephoneChannel
from edgeemo.evaluate.metrics import confusion_matrix, macro_f1
from edgeemo.model.checkpoint import load_checkpoint, save_checkpoint
from edgeemo.model.mfcc_bilstm import MfccBiLstm
from edgeemo.model.streaming import StreamingModel
from edgeemo.model.whisper_cls import WhisperConfig, WhisperTinyCls
from edgeemo.model.windowed import WindowedModel
from edgeemo.train.loop import class_weights, fit, load_sets, smoothed_nll, spec_augment
from edgeemo.train.precision import bfloat16_products
from edgeemo.train.teacher import Lessons, Listen

Windows = Callable[[Sequence[np.ndarray]], tuple[Tensor, Tensor]]  # clips to scaled log-mel and steps heard
LossOf = Callable[..., Tensor]  # (summaries, which clips they are of, soft labels)

# The classifier on Whisper's encoder as it came; its widths, dropout and these were chosen by folds of speakers.
HEAD_COPIES = 10  # windows of every clip, on average
HEAD_WINDOWS = 60000  # at most
HEAD_EPOCHS, HEAD_BATCH, HEAD_LR, HEAD_DECAY = 12, 128, 1e-3, 0.02
DEV_STRIDE = 3  # every so many steps of a clip, and its last, count for dev: a window costs as much as a second of training


@dataclass(frozen=True)
class WindowRecipe:
    epochs: int = 3
    batch: int = 16
    peak_lr: float = 1e-5
    head_lr: float = 3e-5  # of what does not come from Whisper
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    average: float = 0.995
    speeds: tuple[float, float] = (0.88, 1.14)
    whole: float = 0.4  # share of clips heard to their end; the others end anywhere from step ``earliest`` on
    earliest: int = 5
    bands_masked: float = 0.0  # SpecAugment: up to this share of the bands, twice
    frames_masked: int = 0  # and up to so many frames, twice
    line: float = 0.3
    half: bool = True  # matrix products in bfloat16, where the processor has it
    source_loss: float = 3.0  # weight of the second task, telling which corpus a clip is from
    seed: int = 1
    # With teachers:
    copies: int = 4  # of every clip, at other speeds
    soft_loss: float = 1.0  # weight of the divergence from the teachers' soft labels


RECIPES = {
    # No masks: they cost a classifier that was fitted without them ten points in the first epoch (docs/training-log.md).
    WhisperTinyCls.kind: WindowRecipe(),
    MfccBiLstm.kind: WindowRecipe(
        epochs=60, peak_lr=2e-3, head_lr=2e-3, bands_masked=0.15, frames_masked=30, half=False, source_loss=0.0
    ),
}


def draw_windows(
    audio: Sequence[np.ndarray], size: int, step: int, recipe: WindowRecipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A window of each clip at a random speed, ending at its end or before: pcm (n, size * step) with silence in front of a clip
    that does not fill it, and the steps that are the clip's (n, 1)."""
    pcm, heard = torch.zeros(len(audio), size * step), torch.zeros(len(audio), 1)
    for row, samples in enumerate(audio):
        heard_at = change_speed(samples, rng.uniform(*recipe.speeds))
        steps = max(1, -(-len(heard_at) // step))
        whole = steps <= recipe.earliest or rng.random() < recipe.whole
        end = steps if whole else int(rng.integers(recipe.earliest, steps + 1))
        padded = np.zeros(steps * step, dtype=np.float32)
        padded[: len(heard_at)] = heard_at
        chosen = padded[max(0, end - size) * step : end * step]
        pcm[row, size * step - len(chosen) :] = torch.from_numpy(chosen)
        heard[row] = len(chosen) // step
    return pcm, heard


def evaluate(model: WindowedModel, corpus: Corpus, half: bool) -> float:
    """Macro-F1 of the mean probability over every DEV_STRIDE-th step of a clip, and its last."""
    model.eval()
    answer = np.empty(len(corpus.clips), dtype=np.int64)
    with torch.inference_mode(), bfloat16_products(half):
        for batch, index in corpus.batches(32):
            steps = batch.pcm.shape[1] // corpus.step_samples
            seen, heard, _ = model.windows(batch.pcm, model.initial_state(len(index)), steps)
            ends = [(r, s) for r, n in enumerate(batch.steps.tolist()) for s in sorted({n - 1, *range(2, n, DEV_STRIDE)})]
            rows = torch.tensor([r * steps + s for r, s in ends])
            p = torch.cat([torch.softmax(model.logits(model.scaled(seen[i]), heard[i]).float(), dim=1) for i in rows.split(64)])
            clip = torch.tensor([r for r, _ in ends])
            total = torch.zeros(len(index), p.shape[1]).index_add_(0, clip, p)
            answer[index] = (total / torch.bincount(clip)[:, None]).argmax(dim=1).numpy()
    return macro_f1(confusion_matrix(corpus.label, answer, len(model.config.labels)))


def new_model(kind: str) -> WindowedModel:
    """Before training: Whisper's encoder, or random. Raises EdgeEmoError where Whisper's weights are not installed."""
    return WhisperTinyCls(WhisperConfig(as_installed=True)) if kind == WhisperTinyCls.kind else MfccBiLstm()


def _groups(model: WindowedModel, extra: nn.Module, recipe: WindowRecipe) -> list[dict[str, object]]:
    """Whisper's own weights go slower than what is new; only matrices decay. ``extra``: what is trained with the model."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, p in [*model.named_parameters(), *extra.named_parameters()]:
        groups.setdefault((name.startswith("encoder."), p.ndim >= 2), []).append(p)
    return [
        {"params": ps, "lr": recipe.peak_lr if old else recipe.head_lr, "weight_decay": recipe.weight_decay if matrix else 0.0}
        for (old, matrix), ps in groups.items()
    ]


def _fit_classifier(
    model: WhisperTinyCls,
    windows: Callable[[Sequence[np.ndarray]], tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, np.ndarray], Tensor],
    extra: nn.Module,
    corpus: Corpus,
    recipe: WindowRecipe,
    rng: np.random.Generator,
) -> None:
    """The classifier for the encoder as it came: fine-tuning from a random one would bend the encoder to it first (Kumar et al.
    2022). ``loss`` is that of summaries and of the clips they are of."""
    clips = corpus.drawn(min(HEAD_COPIES * len(corpus), HEAD_WINDOWS), rng)
    heard = []
    model.eval()
    with progress_bar("windows through Whisper", len(clips)) as advance:
        for group in np.split(clips, range(recipe.batch, len(clips), recipe.batch)):
            with torch.inference_mode(), bfloat16_products(recipe.half):
                heard.append(model.pooled_layers(*windows([corpus.audio[i] for i in group])).float())
            advance(len(group))
    pooled = torch.cat(heard).clone()  # out of inference mode
    model.set_statistics(pooled)
    trained = nn.ModuleList([model.body, model.classifier, extra]).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=HEAD_LR, weight_decay=HEAD_DECAY)
    batches = -(-len(clips) // HEAD_BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, HEAD_LR, total_steps=batches * HEAD_EPOCHS)
    for _ in range(HEAD_EPOCHS):
        for rows in torch.randperm(len(clips)).split(HEAD_BATCH):
            optimizer.zero_grad()
            loss(model.summarised(pooled[rows]), clips[rows.numpy()]).backward()
            optimizer.step()
            schedule.step()


def _windows_of(model: WindowedModel, recipe: WindowRecipe, rng: np.random.Generator) -> Windows:
    c = model.config
    channel = TelephoneChannel(recipe.seed, recipe.line)
    before = torch.zeros(1, c.frame - c.hop)
    samples = torch.arange(c.window_steps * c.step_samples)

    def windows(audio: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Scaled log-mel of a window of each clip, and the steps heard in it."""
        pcm, heard = draw_windows(audio, c.window_steps, c.step_samples, recipe, rng)
        # Before a call begins there is nothing, not a line's noise.
        pcm = channel(pcm) * (samples >= len(samples) - heard * c.step_samples)
        with torch.no_grad():
            return model.scaled(model.log_mel(torch.cat([before.expand(len(pcm), -1), pcm], dim=1))), heard

    return windows


def _loss_of(model: WindowedModel, sources: nn.Linear, train_set: Corpus, recipe: WindowRecipe) -> LossOf:
    weight = class_weights(train_set.label, len(model.config.labels), train_set.chance * len(train_set))

    def loss_of(summary: Tensor, clips: np.ndarray, soft: Sequence[Tensor] = ()) -> Tensor:
        """Losses of what summaries say about the emotion, and about the corpus: to know the language and the room is half of
        reading a voice in it. ``clips``: which they are of, -1 where none has a label."""
        log_p = torch.log_softmax(model.classifier(summary), dim=1)
        known = clips >= 0
        count, of = max(int(known.sum()), 1), clips[known]
        loss = smoothed_nll(log_p[known], torch.from_numpy(train_set.label[of]), recipe.label_smoothing, weight).sum() / count
        if recipe.source_loss:
            source = torch.from_numpy(train_set.source[of])
            loss = loss + recipe.source_loss * F.cross_entropy(sources(summary[known]), source, reduction="sum") / count
        return loss + recipe.soft_loss * F.kl_div(log_p, torch.stack(list(soft)), reduction="batchmean") if soft else loss

    return loss_of


def _epoch(lessons: Lessons | None, train_set: Corpus, rng: np.random.Generator) -> list[tuple[int, np.ndarray, Tensor | None]]:
    """Clips in a new order: the number (-1 without a label), audio, and soft labels where there are teachers."""
    if lessons:
        return [(i, lesson.audio, soft) for i, lesson, soft in lessons.draw(rng)]
    return [(int(i), train_set.audio[i], None) for i in train_set.drawn(len(train_set), rng)]


def train_windowed(
    kind: str,
    folders: Sequence[Path],
    out: Path,
    recipe: WindowRecipe,
    threads: int,
    init: Path | None = None,
    teachers: Sequence[Listen] = (),
    unlabelled: Path | None = None,
) -> dict[str, object]:
    """As trainer.train, for a windowed model, of whose ``teachers`` only the soft labels are followed. Raises EdgeEmoError if
    ``init`` is of another model."""
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = new_model(kind) if init is None else load_checkpoint(init)
    if not isinstance(model, WindowedModel) or model.kind != kind:
        raise EdgeEmoError(f"{init}: is a checkpoint of {model.title}; give --model {model.kind} to go on with it")
    c = model.config
    print(f"recipe: {recipe}", file=sys.stderr)
    train_set, dev_set = load_sets(folders, c.sample_rate, c.step_samples)
    lessons = None
    if teachers:
        lessons = Lessons(train_set, teachers, (), recipe.copies, 1, rng, unlabelled)
    windows = _windows_of(model, recipe, rng)
    if isinstance(model, MfccBiLstm) and init is None:
        sample = [train_set.audio[i] for i in rng.permutation(len(train_set))[:256]]
        with torch.no_grad():
            model.set_statistics(model.cepstra(windows(sample)[0]).flatten(0, 1))
    sources = nn.Linear(model.classifier.in_features, len(train_set.sources))

    loss_of = _loss_of(model, sources, train_set, recipe)
    reached = -1.0
    if isinstance(model, WhisperTinyCls) and init is None:
        _fit_classifier(model, windows, loss_of, sources, train_set, recipe, rng)
        reached = evaluate(model, dev_set, recipe.half)
        save_checkpoint(model, out)
        print(f"classifier alone  dev macro-F1 {reached:.4f}", file=sys.stderr, flush=True)
        if not recipe.epochs:
            return {"model": kind, "recipe": asdict(recipe), "best_dev_macro_f1": round(reached, 4), "checkpoint": str(out)}

    def losses() -> Iterator[Tensor]:
        epoch = _epoch(lessons, train_set, rng)
        for group in (epoch[i : i + recipe.batch] for i in range(0, len(epoch), recipe.batch)):
            mel, heard = windows([audio for _, audio, _ in group])
            bands = int(recipe.bands_masked * mel.shape[2])
            mel = spec_augment(mel, bands, recipe.frames_masked, mel.mean(dim=(1, 2), keepdim=True), rng)
            with bfloat16_products(recipe.half):
                summary = model.summary(mel, heard)
            yield loss_of(summary.float(), np.array([i for i, _, _ in group]), [soft for _, _, soft in group if soft is not None])

    def score(averaged: StreamingModel) -> float:
        assert isinstance(averaged, WindowedModel)
        return evaluate(averaged, dev_set, recipe.half)

    if isinstance(model, WhisperTinyCls):
        model.config = replace(model.config, as_installed=False)
    batches = -(-len(lessons or train_set) // recipe.batch)
    report = fit(model, _groups(model, sources, recipe), losses, batches, recipe.epochs, recipe.average, score, out, reached)
    return {"model": kind, "recipe": asdict(recipe), **report}
