"""Comparisons of variants of a model: clips, by the probabilities of every step, or feeds, by all that comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import Clip, evenly, find_clips, read_manifest
from edgeemo.evaluate.evaluate import OnnxModel, clip_answers, clip_probabilities
from edgeemo.evaluate.metrics import confusion_matrix, macro_f1
from edgeemo.onnxlib.feeds import find_feeds, read_feed
from edgeemo.onnxlib.session import open_session
from edgeemo.quantize.calibration.checks import refuse_test_speakers
from edgeemo.quantize.report import sqnr_db

NO_NOISE = 200.0  # dB, instead of infinity, which JSON does not have
TINY = 1e-7  # under a probability before its logarithm
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}

Answers = list[np.ndarray]


@dataclass(frozen=True)
class Score:
    """The score of a variant next to float. ``error``: as the comparison measures it, 0 for float itself; ``sqnr_db``: of the
    answers; ``f1`` and ``drop``: macro-F1 of clips, None without labels."""

    error: float
    sqnr_db: float
    f1: float | None
    drop: float | None


class Comparison(Protocol):
    """Picklable: workers get it whole. ``on``: what it compares on, in words; ``measure``: what the error is; ``hears``: what an
    answer is about (evaluate.clip_probabilities), "" where none is of a clip."""

    @property
    def on(self) -> str: ...

    @property
    def measure(self) -> str: ...

    @property
    def hears(self) -> str: ...

    @property
    def files(self) -> Sequence[Path]: ...

    @property
    def labelled(self) -> bool: ...

    def answers(self, model: onnx.ModelProto) -> Answers: ...

    def score(self, floating: Answers, answers: Answers) -> Score: ...


@dataclass(frozen=True)
class ClipComparison:
    """The error is the mean over steps of KL(float || variant) of the probabilities, in nats. Answers: a clip's steps each."""

    clips: tuple[Clip, ...]
    on: str
    hears: str = "window"
    measure: str = "KL, nats"

    @classmethod
    def of(
        cls, data: Path | None, split: str | None, limit: int | None, calibration: Sequence[Clip], hears: str = "window"
    ) -> ClipComparison:
        """On ``data``'s split (dev, where its manifest has one), else the calibration clips. The test split is refused: what is
        chosen on it cannot be scored on it."""
        if data is None:
            clips = evenly(list(calibration), limit)
            return cls(tuple(clips), f"{len(clips)} clips of the calibration folder", hears)
        found = find_clips(data) if split is None else read_manifest(data, split)
        if split is None and any(c.split == "dev" for c in found):
            split, found = "dev", [c for c in found if c.split == "dev"]
        refuse_test_speakers([c for c in found if c.split == "test"], found)
        clips = evenly(found, limit)
        return cls(tuple(clips), f"{len(clips)} clips of {data}" + (f", split {split}" if split else ""), hears)

    @property
    def files(self) -> list[Path]:
        return [c.path for c in self.clips]

    @property
    def labelled(self) -> bool:
        return any(c.label is not None for c in self.clips)

    def answers(self, model: onnx.ModelProto) -> Answers:
        return clip_answers(OnnxModel.of(model, "variant"), list(self.clips), every_step=True)

    def score(self, floating: Answers, answers: Answers) -> Score:
        p, q = (np.concatenate(side).astype(np.float64) for side in (floating, answers))
        kl = (p * np.log(np.maximum(p, TINY) / np.maximum(q, TINY))).sum(axis=1).mean()
        before, after = self._f1(floating), self._f1(answers)
        drop = None if before is None or after is None else before - after
        return Score(float(kl), min(sqnr_db(p, q), NO_NOISE), after, drop)

    def _f1(self, answers: Answers) -> float | None:
        known = [(c.label, a) for c, a in zip(self.clips, answers, strict=True) if c.label is not None]
        if not known:
            return None
        said = clip_probabilities(self.hears, [a for _, a in known])
        return macro_f1(confusion_matrix(np.array([label for label, _ in known]), said.argmax(axis=1), said.shape[1]))


@dataclass(frozen=True)
class FeedComparison:
    """The error is the power of the noise over that of the signal, the mean over the model's float outputs: a state that is
    handed on counts as much as an answer. Answers: an output each, over all feeds."""

    files: tuple[Path, ...]
    on: str
    measure: str = "noise / signal"
    hears: str = ""
    labelled: bool = False

    @classmethod
    def of(cls, folder: Path, limit: int | None) -> FeedComparison:
        files = evenly(find_feeds(folder), limit)
        return cls(tuple(files), f"{len(files)} feeds of {folder}")

    def answers(self, model: onnx.ModelProto) -> Answers:
        """Raises EdgeEmoError where no output is of floats."""
        names = [o.name for o in model.graph.output if o.type.tensor_type.elem_type in FLOATS]
        if not names:
            raise EdgeEmoError(
                "no output of the model is of floats, so variants of it cannot be compared; let it give its scores"
            )
        session = open_session(model)
        found = [session.run(names, read_feed(path, model)) for path in self.files]
        return [np.concatenate([outputs[i].ravel() for outputs in found]) for i in range(len(names))]

    def score(self, floating: Answers, answers: Answers) -> Score:
        error = float(np.mean([_noise(a, b) for a, b in zip(floating, answers, strict=True)]))
        return Score(error, NO_NOISE if error == 0 else min(-10 * float(np.log10(error)), NO_NOISE), None, None)


def _noise(signal: np.ndarray, other: np.ndarray) -> float:
    """Noise power over signal power; of an output that is always zero in float 0 or 1."""
    clean = signal.astype(np.float64)
    power, noise = float((clean**2).sum()), float(((clean - other) ** 2).sum())
    return noise / power if power else float(noise > 0)
