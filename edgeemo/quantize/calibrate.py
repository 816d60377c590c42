"""Runs the float model over calibration clips as streams and observes the inputs of its layers. Two passes, bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from edgeemo_runtime.audio import load_audio
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import Clip
from edgeemo.evaluate.onnx_stream import OnnxStream
from edgeemo.export.contract import StreamContract
from edgeemo.quantize.observers import Observer

STREAMS = 16  # clips run side by side
QUIET = 10 ** (-40 / 20)  # a step this far under its clip's loudest is a pause: its activations would pull thresholds to nothing
SAMPLE_STEPS = 24  # steps whose layer inputs are kept to measure SQNR on

Progress = Callable[[int], None]


@dataclass
class Calibration:
    """Observers by tensor name, and per tensor a few float inputs (steps, ...) that the report measures error on."""

    observers: dict[str, Observer]
    samples: dict[str, np.ndarray]
    clips: int
    steps: int


def calibrate(
    model: onnx.ModelProto,
    contract: StreamContract,
    tensors: dict[str, str],
    clips: list[Clip],
    progress: Progress,
    method: str = "kl",
) -> Calibration:
    """Observes tensors over ``clips`` (read twice, never all in memory). ``tensors``: name to the name of its observer, which
    several may share. ``progress`` gets clips done. ``method``: of thresholds.py."""
    by_name = {name: Observer(name, method) for name in tensors.values()}
    observers = {t: by_name[name] for t, name in tensors.items()}
    first = next(iter(tensors))
    stream = OnnxStream(model, contract, extra_outputs=list(tensors))
    steps = 0
    for values in _steps(stream, clips, list(tensors), progress):
        steps += len(values[first])
        for t in tensors:
            observers[t].observe_range(values[t])
    if steps == 0:
        raise EdgeEmoError("every calibration clip is silent; give clips with speech in them")
    samples: dict[str, list[np.ndarray]] = {t: [] for t in tensors}
    every = max(1, steps // SAMPLE_STEPS)
    seen = 0
    for values in _steps(stream, clips, list(tensors), progress):
        here = len(values[first])
        wanted = [i for i in range(here) if (seen + i) % every == 0]
        seen += here
        for t in tensors:
            observers[t].observe_histogram(values[t])
            samples[t].extend(values[t][wanted])
    return Calibration(observers, {t: np.stack(samples[t]) for t in tensors}, len(clips), steps)


def _steps(stream: OnnxStream, clips: list[Clip], tensors: list[str], progress: Progress) -> Iterator[dict[str, np.ndarray]]:
    """Tensor values of every step that is neither padding nor a pause, for groups of clips in their order."""
    size = stream.contract.samples_per_step
    for first in range(0, len(clips), STREAMS):
        group = [load_audio(c.path, stream.contract.sample_rate) for c in clips[first : first + STREAMS]]
        steps = max(-(-len(a) // size) for a in group)
        audio = np.zeros((len(group), steps, size), dtype=np.float32)
        for row, a in enumerate(group):
            audio[row].reshape(-1)[: len(a)] = a
        loudness = np.sqrt((audio**2).mean(axis=2))
        active = loudness > np.maximum(loudness.max(axis=1, keepdims=True) * QUIET, 1e-6)
        stream.reset(len(group))
        for step in range(steps):
            values = stream.step(audio[:, step])
            if active[:, step].any():
                yield {t: values[t][active[:, step]] for t in tensors}
        progress(len(group))
