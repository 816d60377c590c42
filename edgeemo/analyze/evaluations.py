"""How far a variant of the model is from float, end to end: every variant scored once and kept, so that a run can be
interrupted."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from edgeemo.console import BUILD
from edgeemo.data.clips import Clip, evenly, find_clips, hash_files, read_manifest
from edgeemo.evaluate.evaluate import OnnxModel, StepModel, clip_answers
from edgeemo.evaluate.metrics import confusion_matrix, macro_f1
from edgeemo.parallel import in_order
from edgeemo.quantize.cache import StoredRange, hash_model, stored_ranges
from edgeemo.quantize.calibrate import Calibration, Progress
from edgeemo.quantize.guards import refuse_test_speakers
from edgeemo.quantize.quantizer import Plan, apply, plan
from edgeemo.quantize.recipe import Recipe
from edgeemo.quantize.report import sqnr_db

LOG = BUILD / "evaluations.jsonl"  # what has been scored, for a run that goes on
NO_NOISE = 200.0  # dB, instead of infinity, which JSON does not have
TINY = 1e-7  # under a probability before its logarithm


def evaluation_clips(data: Path | None, split: str | None, limit: int | None, calibration: list[Clip]) -> tuple[list[Clip], str]:
    """What variants are compared on, and how to call it: ``data``'s split (dev, where its manifest has one), else the calibration
    clips. The test split is refused: what is chosen on it cannot be scored on it."""
    if data is None:
        return evenly(calibration, limit), "the calibration folder"
    clips = find_clips(data) if split is None else read_manifest(data, split)
    if split is None and any(c.split == "dev" for c in clips):
        split, clips = "dev", [c for c in clips if c.split == "dev"]
    refuse_test_speakers([c for c in clips if c.split == "test"], clips)
    return evenly(clips, limit), f"{data}, split {split}" if split else str(data)


@dataclass(frozen=True)
class Score:
    """Of a variant beside float. ``kl``: mean over steps of KL(float || variant) of the probabilities, nats;
    ``sqnr_db``: of them, too; ``f1`` and ``drop``: macro-F1 of clips, None without labels."""

    kl: float
    sqnr_db: float
    f1: float | None
    drop: float | None


class Evaluations:
    """Scores recipes on ``clips``. ``log``: a file of scores (JSON lines) that a later run of the same model, calibration and
    clips goes on with; others' lines in it do no harm."""

    def __init__(self, planned: Plan, calibration: Calibration, clips: Sequence[Clip], log: Path | None = None,
                 jobs: int = 1, cluster: str | None = None) -> None:  # fmt: skip
        self._model = planned.model
        self._data = planned.model.SerializeToString()
        self._ranges = stored_ranges(calibration, jobs)
        self._clips, self._log, self._jobs, self._cluster = list(clips), log, jobs, cluster
        about = f"{hash_model(planned.model)} {calibration.data_sha256} {hash_files([c.path for c in self._clips])}"
        self._about = hashlib.sha256(about.encode()).hexdigest()
        self._known: dict[str, Score] = {}
        if log is not None and log.is_file():
            for line in log.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["key"]] = Score(**entry["score"])
                except (ValueError, KeyError, TypeError):
                    continue  # the line that an interruption cut
        self._float: list[np.ndarray] | None = None

    def _key(self, recipe: Recipe) -> str:
        """Of what a recipe does, not how it says it."""
        planned = plan(self._model, "", recipe)
        does = [(x.name, x.precision, self._scale(planned, x.input, x.precision)) for x in planned.layers]
        does += [(t.name, t.precision, self._scale(planned, t.input, t.precision)) for t in planned.tokens]
        return hashlib.sha256(f"{self._about} {sorted(does)}".encode()).hexdigest()

    def _scale(self, planned: Plan, tensor: str, precision: str) -> float | None:
        return self._ranges[tensor].scale(planned.methods[tensor]) if precision == "int8" else None

    def scores(self, recipes: Sequence[Recipe], progress: Progress = lambda done: None) -> Iterator[Score]:
        """In the recipes' order; every new one is logged as soon as it is known. ``progress``: recipes done."""
        if self._float is None:
            self._float = _answers(self._data, None, self._ranges, tuple(self._clips))
        keys = [self._key(r) for r in recipes]
        missing = [(r, k) for r, k in zip(recipes, keys, strict=True) if k not in self._known]
        work = ((self._data, r, self._ranges, tuple(self._clips)) for r, _ in missing)
        found = in_order(_answers, work, self._jobs, self._cluster)
        for key in keys:
            if key not in self._known:
                self._keep(key, self._score(next(found)))
            progress(1)
            yield self._known[key]

    def score(self, recipe: Recipe) -> Score:
        return next(iter(self.scores([recipe])))

    def _keep(self, key: str, score: Score) -> None:
        self._known[key] = score
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as file:
                # A line of its own, also after one that an interruption cut.
                file.write("\n" * (file.tell() > 0) + json.dumps({"key": key, "score": asdict(score)}))

    def _score(self, answers: list[np.ndarray]) -> Score:
        assert self._float is not None
        p, q = (np.concatenate(side).astype(np.float64) for side in (self._float, answers))
        kl = (p * np.log(np.maximum(p, TINY) / np.maximum(q, TINY))).sum(axis=1).mean()
        before, after = self._f1(self._float), self._f1(answers)
        drop = None if before is None or after is None else before - after
        return Score(float(kl), min(sqnr_db(p, q), NO_NOISE), after, drop)

    def _f1(self, answers: list[np.ndarray]) -> float | None:
        known = [(c.label, a.mean(axis=0).argmax()) for c, a in zip(self._clips, answers, strict=True) if c.label is not None]
        if not known:
            return None
        truth, answer = np.array(known).T
        return macro_f1(confusion_matrix(truth, answer, answers[0].shape[1]))


@functools.lru_cache(maxsize=1)
def _loaded(data: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(data)


def _answers(data: bytes, recipe: Recipe | None, ranges: dict[str, StoredRange], clips: tuple[Clip, ...]) -> list[np.ndarray]:
    """Step probabilities of every clip, of the float model where there is no recipe."""
    model = _loaded(data)
    if recipe is not None:
        model = apply(plan(model, "", recipe), Calibration(ranges, {}, 0, 0, ""))
    opened: StepModel = OnnxModel.of(model, "variant")
    return clip_answers(opened, list(clips))
