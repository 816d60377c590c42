"""Training CosyVoice-Tiny from Whisper's front: the order of its stages, and what is written at the end.

Its encoder follows Whisper's on the clean signal, through whatever line it hears; a classifier is fitted to what it hears; both
go on together, with labels that are half what larger encoders hear; and how sure an answer may be, on dev.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.evaluate.metrics import confusion_matrix, macro_f1
from edgeemo.model.checkpoint import load_checkpoint, save_checkpoint
from edgeemo.model.config import LABELS
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.whisper import WhisperEncoder, load_whisper
from edgeemo.train.bank import Bank, Planner
from edgeemo.train.head import HeadRecipe, Moments, Summaries, gather, tune_head
from edgeemo.train.mix import Mix, Pool, Row, Rows
from edgeemo.train.soft_labels import SoftRecipe, soft_labels
from edgeemo.train.stages import Learner, Lesson, Stage, Targets
from edgeemo.train.start import begin_with_whisper
from edgeemo.train.sureness import Steps, errors, fit_sureness, sessions
from edgeemo.train.whisper_states import Teacher

MOST_OFTEN = 10  # times that a clip is in a session, on average: own calls may be few
# Of all updates, and of all the time: following Whisper, the classifier alone, both together.
SHARES = (0.55, 0.15, 0.3), (0.35, 0.1, 0.55)


@dataclass(frozen=True)
class ListenerRecipe:
    """Recipe of `edgeemo train` for CosyVoice-Tiny; printed at the start and kept in the training report."""

    updates: int = 2600  # of all stages; 0: the encoder stays, and its classifier goes on to learn
    minutes: float | None = None  # after which it ends, whatever was done by then
    batch: int = 256  # rows
    steps: int = 32  # a row of one clip, 5.12 s
    session_steps: int = 80  # a row that is as a call
    peak_lr: float = 2e-4  # of what comes from Whisper, with labels; twice that without, and for what does not
    head_lr: float = 5e-4
    soft: float = 0.5  # share of the teachers' soft labels in a target
    unlabelled: float = 0.35  # share of rows that are speech without labels, where there are no labels
    every_s: float = 60.0
    sessions: int = HeadRecipe.sessions  # for a classifier that goes on to learn
    seed: int = 1

    def stages(self, seconds: float) -> tuple[Stage, Stage, Stage]:
        """To follow, to fit a classifier, to do both; in ``seconds`` at most."""

        def stage(i: int, name: str, encoder_lr: float, head_lr: float) -> Stage:
            return Stage(
                name,
                max(1, round(SHARES[0][i] * self.updates)),
                SHARES[1][i] * seconds,
                rows=self.batch,
                alone=self.batch * 3 // 4,
                sessions=self.batch // 4,
                steps=self.steps,
                session_steps=self.session_steps,
                encoder_lr=encoder_lr,
                new_lr=2 * encoder_lr,
                head_lr=head_lr,
                every_s=self.every_s,
                seed=self.seed + i,
            )

        return (
            stage(0, "follow", 2 * self.peak_lr, 0.0),
            stage(1, "classifier", 0.0, 2 * self.head_lr),
            stage(2, "joint", self.peak_lr, self.head_lr),
        )


def scores(rows: list[Row], probabilities: np.ndarray) -> dict[str, float]:
    """Macro-F1 over the classes that there are: of all clips, of each corpus, and the corpora's mean."""
    label, answer = np.array([r.label for r in rows]), probabilities.argmax(axis=1)
    corpus = np.array([r.corpus for r in rows])

    def f1(keep: np.ndarray) -> float:
        return macro_f1(confusion_matrix(label[keep], answer[keep], len(LABELS)))

    found = {str(c): f1(corpus == c) for c in np.unique(corpus)}
    return {"all": f1(np.ones(len(rows), dtype=bool)), "mean": float(np.mean(list(found.values()))), **found}


def scorer(pool: Pool, dev: list[Row], rate: int) -> Callable[[CosyVoiceTiny], str]:
    """Scores of a model on dev in one line: of clips, and of the steps of calls of one emotion."""
    calls = [s for s in sessions(dev, rate) if len(s) > 1]

    def score(model: CosyVoiceTiny) -> str:
        found = scores(dev, Summaries.of(model, pool, dev, 128).answers(model))
        said = "dev clips " + ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        if not calls:
            return said
        steps = Steps.of(model, pool, calls, ("clean",), 64)
        answered = steps.answered(model)
        label, answer = (x[answered].cpu().numpy() for x in (steps.label, steps.logits.argmax(dim=1)))
        return f"{said}; steps of calls {macro_f1(confusion_matrix(label, answer, len(LABELS))):.4f}"

    return score


def _teachers(encoders: Sequence[WhisperEncoder], device: str) -> list[Teacher]:
    """Each followed in its middle and near its end: in the layer that the student's last one was, and in one that tells emotions
    better. As in DistilHuBERT (Chang et al. 2022)."""
    counts = [len(e.layers) for e in encoders]
    return [Teacher(e.to(device), (n // 2, n - n // 6)) for e, n in zip(encoders, counts, strict=True)]


def learn(
    model: CosyVoiceTiny,
    begin: bool,
    pool: Pool,
    mix: Mix,
    dev: list[Row],
    recipe: ListenerRecipe,
    encoders: Sequence[WhisperEncoder],
    state: Path,
    resume: bool,
) -> CosyVoiceTiny:
    """The model after all stages, on torch's default device. ``begin``: from the first encoder's weights; ``state``: a file from
    which a run that was cut off goes on."""
    device, began = torch.get_default_device().type, time.monotonic()
    bank, teachers = Bank(pool.samples, pool.rows, mix.size, device), _teachers(encoders, device)
    planner, targets = Planner(mix, bank.levels, recipe.seed), Targets(mix, device)
    plan = planner.full(min(64, recipe.batch), recipe.steps)
    rows = Rows(bank(plan)[0], torch.from_numpy(plan.began).to(device))
    for teacher in teachers:
        teacher.standardise(rows)
    if begin:
        begin_with_whisper(model, teachers[0].encoder, teachers[0].mel(rows.pcm))
    if recipe.soft:
        soft, known = soft_labels(teachers, planner, bank, mix, targets, SoftRecipe(), dev)
        targets.soften(soft, recipe.soft)
        print(f"teachers  {time.monotonic() - began:.0f} s  dev clips {scores(dev, known)}", file=sys.stderr, flush=True)
    learner = Learner(Lesson(model, teachers, len(mix.corpora)).to(device), teachers, planner, bank, targets)
    score, names = scorer(pool, dev, model.config.sample_rate), ["follow", "classifier", "joint"]
    done = torch.load(state, weights_only=False)["stage"] if resume and state.is_file() else names[0]
    left = math.inf if recipe.minutes is None else max(1e-3, 60 * recipe.minutes - (time.monotonic() - began))
    for stage in recipe.stages(left)[names.index(done) :]:
        if stage.name == "classifier":
            learner.new_head(stage)
        learner.run(stage, score, state, resume)
    return learner.averaged.eval()


def train_listener(
    folders: Sequence[Path],
    out: Path,
    recipe: ListenerRecipe,
    threads: int,
    init: Path | None = None,
    unlabelled: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    teachers: Sequence[WhisperEncoder] = (),
) -> dict[str, object]:
    """Trains on the splits ``train`` of ``folders``, fits how sure answers are on their ``dev``, writes weights to ``out``;
    ``resume`` goes on where a run with the same ``out`` was cut off. ``init``: begins with that encoder, and scores that model
    before and after; without updates its classifier goes on to learn, too, instead of a new one. ``teachers``: followed as well
    as Whisper tiny.en.

    Raises EdgeEmoError where Whisper's weights are not installed, ``init`` is of another model, or the device is not there.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    model = _start(init, recipe, device)
    encoders = [load_whisper(), *teachers] if recipe.updates else []
    c = model.config
    print(f"recipe: {recipe}", file=sys.stderr)
    pool = Pool.load([*folders, *([unlabelled] if unlabelled else [])], c.sample_rate, out.with_suffix(".audio.npy"))
    mix = Mix(pool, recipe.steps, c.step_samples, recipe.unlabelled if unlabelled else 0.0, recipe.seed)
    print(f"clips: {len(mix.labelled)} with labels, {len(mix.others)} without", file=sys.stderr)
    dev = [r for r in pool.of("dev") if r.target is not None]
    if not dev or not mix.labelled:
        raise EdgeEmoError(f"{', '.join(map(str, folders))}: needs labelled clips of the splits train and dev (column split)")
    before = None if init is None else scores(dev, Summaries.of(model, pool, dev).answers(model))
    classify = HeadRecipe(sessions=min(recipe.sessions, MOST_OFTEN * len(mix.labelled)), seed=recipe.seed)
    if recipe.updates:
        begin, state = init is None, out.with_suffix(".state")
        with torch.device(device):
            start = replace_intensity(model).to(device)
            model = learn(start, begin, pool, mix, dev, recipe, encoders, state, resume).cpu()
    else:
        model.head = tune_head(model, _moments(model, mix, classify, out.with_suffix(".moments"), resume), mix, classify)
        model = replace_intensity(model)
    model = fit_sureness(model, Steps.of(model, pool, sessions(dev, c.sample_rate)))
    save_checkpoint(model, out)
    found = scores(dev, Summaries.of(model, pool, dev).answers(model))
    report: dict[str, object] = {"model": model.kind, "recipe": asdict(recipe)}
    report |= {} if recipe.updates else {"head": asdict(classify)}
    report |= {"dev_before": before} if before else {}
    report |= {"dev": found, "calibration_error": errors(model, Steps.of(model, pool, [[r] for r in dev], ("clean",)))}
    return {**report, "best_dev_macro_f1": round(found["all"], 4), "checkpoint": str(out)}


def _start(init: Path | None, recipe: ListenerRecipe, device: str) -> CosyVoiceTiny:
    """The model to train. Raises EdgeEmoError where it, or the device, is not what the recipe needs."""
    model = CosyVoiceTiny() if init is None else load_checkpoint(init)
    if not isinstance(model, CosyVoiceTiny):
        raise EdgeEmoError(f"{init}: is a checkpoint of {model.title}; give --model {model.kind} to go on with it")
    if not recipe.updates and init is None:
        raise EdgeEmoError("without updates of the encoder only a classifier goes on to learn; give the checkpoint to --init")
    if device == "cuda" and not torch.cuda.is_available():
        raise EdgeEmoError("--device cuda: torch finds no CUDA device here; install a CUDA build of torch, or take --device cpu")
    return model


def _moments(model: CosyVoiceTiny, mix: Mix, recipe: HeadRecipe, kept: Path, resume: bool) -> Moments:
    """Summaries that a classifier learns from, gathered once: ``kept`` is a file for the next time."""
    if resume and kept.is_file():
        return Moments(*torch.load(kept, weights_only=True))
    moments = gather(model, mix, recipe)
    torch.save((moments.pooled, moments.clip), kept)
    return moments


def replace_intensity(model: CosyVoiceTiny) -> CosyVoiceTiny:
    """The model as one without a head for the strength of anger, which a new classifier does not have yet."""
    made = CosyVoiceTiny(replace(model.config, intensity=False))
    of_labels = {k: v[: len(LABELS)] if k.startswith("head.classifier") else v for k, v in model.state_dict().items()}
    made.load_state_dict(of_labels)
    return made.eval()
