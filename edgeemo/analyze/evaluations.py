"""How far a variant of the model is from float, end to end: every variant scored once and kept, so that a run can be
interrupted."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import onnx

from edgeemo.analyze.comparisons import Answers, Comparison, Score
from edgeemo.data.clips import hash_files
from edgeemo.parallel import in_order
from edgeemo.quantize.calibration.cache import StoredRange, hash_model, stored_ranges
from edgeemo.quantize.calibration.runner import Calibration, Progress
from edgeemo.quantize.plan import Plan, apply, plan
from edgeemo.quantize.recipe import Recipe

LOG = "evaluations.jsonl"  # what has been scored, for a run that goes on


class Evaluations:
    """Scores recipes by a comparison. ``log``: a file of scores (JSON lines) that a later run of the same model, calibration and
    comparison goes on with; others' lines in it do no harm."""

    def __init__(self, planned: Plan, calibration: Calibration, comparison: Comparison, log: Path | None = None,
                 jobs: int = 1, cluster: str | None = None) -> None:  # fmt: skip
        self._model = planned.model
        self._data = planned.model.SerializeToString()
        self._ranges = stored_ranges(calibration, jobs)
        self._comparison, self._log, self._jobs, self._cluster = comparison, log, jobs, cluster
        # What the model hears is metadata, which its hash leaves out.
        about = f"{hash_model(planned.model)} {comparison.hears} {calibration.data_sha256} {hash_files(list(comparison.files))}"
        self._about = hashlib.sha256(about.encode()).hexdigest()
        self._known: dict[str, Score] = {}
        if log is not None and log.is_file():
            for line in log.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["key"]] = Score(**entry["score"])
                except (ValueError, KeyError, TypeError):
                    continue  # the line that an interruption cut
        self._float: Answers | None = None

    def _key(self, recipe: Recipe) -> str:
        """A key of what a recipe does, not of how it says it."""
        planned = plan(self._model, "", recipe)
        does = [(x.name, x.precision, self._scale(planned, x.input, x.precision), repr(x.scaling)) for x in planned.layers]
        does += [(t.name, t.precision, self._scale(planned, t.input, t.precision), "") for t in planned.tokens]
        return hashlib.sha256(f"{self._about} {sorted(does)}".encode()).hexdigest()

    def _scale(self, planned: Plan, tensor: str, precision: str) -> tuple[float, int] | None:
        how = planned.scalings[tensor]
        return (self._ranges[tensor].scale(how), how.qmax) if precision == "int8" else None

    def scores(self, recipes: Sequence[Recipe], progress: Progress = lambda done: None) -> Iterator[Score]:
        """In the recipes' order; every new one is logged as soon as it is known. ``progress``: recipes done."""
        if self._float is None:
            self._float = _answers(self._data, None, self._ranges, self._comparison)
        keys = [self._key(r) for r in recipes]
        missing = [(r, k) for r, k in zip(recipes, keys, strict=True) if k not in self._known]
        work = ((self._data, r, self._ranges, self._comparison) for r, _ in missing)
        found = in_order(_answers, work, self._jobs, self._cluster, [self._data])
        for key in keys:
            if key not in self._known:
                self._keep(key, self._comparison.score(self._float, next(found)))
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


@functools.lru_cache(maxsize=1)
def _loaded(data: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(data)


def _answers(data: bytes, recipe: Recipe | None, ranges: dict[str, StoredRange], comparison: Comparison) -> Answers:
    """Answers of the model by ``recipe``, of the float model where there is none."""
    model = _loaded(data)
    if recipe is not None:
        model = apply(plan(model, "", recipe), Calibration(ranges, {}, 0, 0, ""))
    return comparison.answers(model)
