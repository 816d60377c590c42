"""Clip-level scores through the streaming path, for any stage of the chain: checkpoint, ONNX or artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from edgeemo_runtime.artifact import load_artifact
from edgeemo_runtime.audio import load_audio
from edgeemo_runtime.decision import LISTENING, PRESETS
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.model import Model

from edgeemo.data.clips import NORMAL_STRONG, Clip
from edgeemo.data.streams import side_by_side
from edgeemo.evaluate.metrics import accuracy, confusion_matrix, jump_rate, macro_f1, per_class_f1

BATCH = 16
Heard = tuple[list[np.ndarray], list[np.ndarray]]


class StepModel(Protocol):
    """A streaming model that eval can run: whole clips in, probabilities per step out."""

    sample_rate: int
    samples_per_step: int
    labels: tuple[str, ...]
    hears: str  # "call" or "window": what an answer is about, the stream so far or its last seconds

    def run(self, audio: list[np.ndarray]) -> list[np.ndarray]:
        """Clips (samples,) float32, each as a stream of its own; per clip (steps, labels) float32."""
        ...

    def heard(self, audio: list[np.ndarray]) -> Heard:
        """The same, and per clip which of its steps have a label (steps,) bool: those after the listening."""
        ...

    def evidence(self, audio: np.ndarray) -> float | None:
        """After a clip (samples,), what speaks for its anger being strong, above zero for yes; None without that head."""
        ...


class TorchModel:
    """All steps of a clip in one call: the model's definition gives the same answers as step by step, much sooner."""

    def __init__(self, path: Path) -> None:
        import torch

        from edgeemo.model.checkpoint import load_checkpoint

        self._torch, self._model = torch, load_checkpoint(path)
        c = self._model.config
        self.sample_rate, self.samples_per_step, self.labels = c.sample_rate, c.step_samples, c.labels
        self.hears = self._model.hears

    def run(self, audio: list[np.ndarray]) -> list[np.ndarray]:
        return self.heard(audio)[0]

    def heard(self, audio: list[np.ndarray]) -> Heard:
        from edgeemo.model.call import CallModel

        padded, steps = side_by_side(audio, self.samples_per_step)
        model, labelled = self._model, np.ones(padded.shape[:2], dtype=bool)
        with self._torch.inference_mode():
            pcm, state = self._torch.from_numpy(padded.reshape(len(audio), -1)), model.initial_state(len(audio))
            if isinstance(model, CallModel):
                answers, spoken, _ = model.answers(pcm, state, padded.shape[1])
                labelled = (spoken >= model.config.least_speech).numpy()
            else:
                answers, _ = model(pcm, state, padded.shape[1])
        return [answers[row, :n].numpy() for row, n in enumerate(steps)], [labelled[row, :n] for row, n in enumerate(steps)]

    def evidence(self, audio: np.ndarray) -> float | None:
        padded, steps = side_by_side([audio], self.samples_per_step)
        with self._torch.inference_mode():
            _, state = self._model(self._torch.from_numpy(padded.reshape(1, -1)), self._model.initial_state(1), steps[0])
        return float(state["intensity"][0, 0]) if "intensity" in state else None


class OnnxModel:
    """Step by step in ONNX Runtime; answers beyond a clip's end are dropped."""

    def __init__(self, path: Path) -> None:
        from edgeemo.onnxlib.load import load_onnx

        self._open(load_onnx(path), str(path))

    @classmethod
    def of(cls, model: onnx.ModelProto, source: str) -> OnnxModel:
        """Answers of a graph in memory; ``source`` is what messages name."""
        opened = cls.__new__(cls)
        opened._open(model, source)
        return opened

    def _open(self, model: onnx.ModelProto, source: str) -> None:
        from edgeemo.onnxlib.contract import read_contract
        from edgeemo.onnxlib.session import OnnxStream

        contract = read_contract(model, source)
        if contract is None:
            raise EdgeEmoError(f"{source}: has no stream contract, so audio cannot be streamed through it")
        self._stream = OnnxStream(model, contract)
        self.sample_rate, self.samples_per_step = contract.sample_rate, contract.samples_per_step
        self.labels, self.hears = contract.labels, contract.hears

    def run(self, audio: list[np.ndarray]) -> list[np.ndarray]:
        return self.heard(audio)[0]

    def heard(self, audio: list[np.ndarray]) -> Heard:
        padded, steps = side_by_side(audio, self.samples_per_step)
        self._stream.reset(len(audio))
        answers = np.empty((*padded.shape[:2], len(self.labels)), dtype=np.float32)
        labelled, listening = np.ones(padded.shape[:2], dtype=bool), self._stream.contract.listening
        for s in range(padded.shape[1]):
            answers[:, s] = self._stream.probabilities(padded[:, s])
            if listening is not None:
                labelled[:, s] = self._stream.state(listening.state)[:, 0] >= listening.least
        return [answers[row, :n] for row, n in enumerate(steps)], [labelled[row, :n] for row, n in enumerate(steps)]

    def evidence(self, audio: np.ndarray) -> float | None:
        level = self._stream.contract.intensity
        if level is None:
            return None
        self.run([audio])
        return float(self._stream.state(level.state)[0, 0])


class ArtifactModel:
    def __init__(self, path: Path) -> None:
        # Without rules: which steps have a label is the model's to say.
        self._engine = e = Engine(load_artifact(path), BATCH, PRESETS["raw"])
        self.sample_rate, self.samples_per_step, self.labels = e.sample_rate, e.samples_per_step, e.labels
        self.hears = e.model.artifact.manifest["stream"].get("hears", "window")

    def run(self, audio: list[np.ndarray]) -> list[np.ndarray]:
        return self.heard(audio)[0]

    def heard(self, audio: list[np.ndarray]) -> Heard:
        streams = [self._engine.open() for _ in audio]
        answers: dict[int, list[np.ndarray]] = {s.id: [] for s in streams}
        labelled: dict[int, list[bool]] = {s.id: [] for s in streams}
        padded, steps = side_by_side(audio, self.samples_per_step)
        for at in range(max(steps)):
            for row, stream in enumerate(streams):
                if at < steps[row]:
                    stream.push(padded[row, at])
            results = self._engine.step()
            for id_, p, label in zip(results.streams, results.probabilities, results.label, strict=True):
                answers[int(id_)].append(p)
                labelled[int(id_)].append(label != LISTENING)
        for stream in streams:
            stream.close()
        return [np.stack(answers[s.id]) for s in streams], [np.array(labelled[s.id]) for s in streams]

    def evidence(self, audio: np.ndarray) -> float | None:
        model = Model(self._engine.model.artifact, 1)
        if model.intensity is None:
            return None
        for step in side_by_side([audio], self.samples_per_step)[0][0]:
            model.audio[0] = step
            model.run(np.zeros(1, dtype=np.int64))
        return float(model.states[0, model.intensity[2]])


def open_model(path: Path) -> StepModel:
    """By suffix: .safetensors, .onnx or .edgeemo. Raises EdgeEmoError for any other."""
    kinds: dict[str, Callable[[Path], StepModel]] = {
        ".safetensors": TorchModel,
        ".onnx": OnnxModel,
        ".edgeemo": ArtifactModel,
    }
    if path.suffix not in kinds:
        raise EdgeEmoError(f"{path}: eval takes {', '.join(kinds)}")
    return kinds[path.suffix](path)


def clip_answers(
    model: StepModel,
    clips: list[Clip],
    progress: Callable[[int], None] = lambda n: None,
    line: str = "clean",
    every_step: bool = False,
) -> list[np.ndarray]:
    """Probabilities of those steps of every clip that have a label, or of all (``every_step``, or it ends before); each clip a
    stream of its own that comes through ``line`` (lines.LINES). Per clip (steps, labels) float32."""
    from edgeemo.data.telephone import through_line

    answers: list[np.ndarray] = []
    for first in range(0, len(clips), BATCH):
        group = clips[first : first + BATCH]
        audio = [load_audio(c.path, model.sample_rate) for c in group]
        found, labelled = model.heard([through_line(a, line, first + i) for i, a in enumerate(audio)])
        answers += [a[keep] if keep.any() and not every_step else a for a, keep in zip(found, labelled, strict=True)]
        progress(len(group))
    return answers


def clip_probabilities(hears: str, answers: list[np.ndarray]) -> np.ndarray:
    """Answers about whole clips (clips, labels), float64, from their steps' probabilities, (steps, labels) each.

    A step of a model that hears the whole call is its answer about all of it so far: a clip's is that after its last step, as
    usual for models with a memory. Of one that hears a window it is the mean over the windows.
    """
    whole = [a[-1] if hears == "call" else a.mean(axis=0, dtype=np.float64) for a in answers]
    return np.stack(whole).astype(np.float64)


def evaluate(model: StepModel, clips: list[Clip], answers: list[np.ndarray]) -> dict[str, Any]:
    """The report of `edgeemo eval`, by clip_probabilities of the step probabilities. Clips need labels."""
    truth = np.array([c.label for c in clips])
    answer = clip_probabilities(model.hears, answers).argmax(axis=1)
    classes = len(model.labels)
    confusion = confusion_matrix(truth, answer, classes)
    f1 = per_class_f1(confusion)
    corpora = sorted({c.corpus for c in clips})
    per_corpus = {}
    for corpus in corpora:
        mine = np.array([c.corpus == corpus for c in clips])
        part = confusion_matrix(truth[mine], answer[mine], classes)
        per_corpus[corpus or "all"] = {"clips": int(mine.sum()), "macro_f1": macro_f1(part), "accuracy": accuracy(part)}
    return {
        "clips": len(clips),
        "hears": model.hears,
        "macro_f1": macro_f1(confusion),
        "accuracy": accuracy(confusion),
        "per_class": {
            name: {"f1": 0.0 if np.isnan(f1[i]) else float(f1[i]), "clips": int(confusion[i].sum())}
            for i, name in enumerate(model.labels)
        },
        "per_corpus": per_corpus,
        "confusion": confusion.tolist(),
        "labels": list(model.labels),
        "jump_rate": jump_rate([a.argmax(axis=1) for a in answers]),
    }


def evaluate_intensity(model: StepModel, clips: list[Clip]) -> dict[str, Any] | None:
    """Macro-F1 of the second level over angry clips of known strength; None where there are none, or no such head."""
    known = [c for c in clips if c.label == model.labels.index("angry") and c.intensity in NORMAL_STRONG]
    found = [model.evidence(load_audio(c.path, model.sample_rate)) for c in known]
    told = [e > 0 for e in found if e is not None]
    if not told:
        return None
    confusion = confusion_matrix(np.array([NORMAL_STRONG.index(c.intensity) for c in known]), np.array(told, dtype=np.int64), 2)
    return {
        "clips": len(known),
        "macro_f1": macro_f1(confusion),
        "accuracy": accuracy(confusion),
        "confusion": confusion.tolist(),
    }
