"""Runs the float model over calibration clips as streams and observes the inputs of its layers. Two passes, bounded memory.

Clips go in groups of STREAMS in their order, each group's work is a function of that group alone, and what is kept of groups are
largest values and counts: neither the number of workers nor their order can change a bit of the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import onnx
from edgeemo_runtime.audio import load_audio
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import Clip
from edgeemo.evaluate.onnx_stream import OnnxStream
from edgeemo.export.contract import StreamContract
from edgeemo.parallel import in_order
from edgeemo.quantize.observers import Observer, Range

STREAMS = 16  # clips run side by side
QUIET = 10 ** (-40 / 20)  # a step this far under its clip's loudest is a pause: its activations would pull thresholds to nothing
SAMPLE_STEPS = 24  # steps whose layer inputs are kept to measure SQNR on

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Calibration:
    """Ranges by tensor name, and per tensor a few float inputs (steps, ...) that the report measures error on (none where the
    ranges were read from a file)."""

    ranges: Mapping[str, Range]
    samples: Mapping[str, np.ndarray]
    clips: int
    steps: int
    data_sha256: str


def calibrate(
    model: onnx.ModelProto,
    contract: StreamContract,
    tensors: dict[str, str],
    clips: list[Clip],
    data_sha256: str,
    progress: Progress = lambda done: None,
    jobs: int = 1,
    cluster: str | None = None,
    sample_steps: int = SAMPLE_STEPS,
) -> Calibration:
    """Observes tensors over ``clips`` (read twice, never all in memory). ``tensors``: name to the name of its observer, which
    several may share. ``progress`` gets clips done. ``jobs``, ``cluster``: of parallel.in_order. ``sample_steps``: to keep the
    tensors' values of, at least."""
    data = model.SerializeToString()
    groups = [tuple(c.path for c in clips[first : first + STREAMS]) for first in range(0, len(clips), STREAMS)]
    names = tuple(tensors)
    largest = dict.fromkeys(tensors.values(), 0.0)
    steps = []
    first_pass = in_order(_observe_ranges, ((data, contract, names, g) for g in groups), jobs, cluster)
    for group, (found, spoken) in zip(groups, first_pass, strict=True):
        for tensor, value in found.items():
            largest[tensors[tensor]] = max(largest[tensors[tensor]], value)
        steps.append(spoken)
        progress(len(group))
    if sum(steps) == 0:
        raise EdgeEmoError("every calibration clip is silent; give clips with speech in them")
    observers = {name: Observer(name, value) for name, value in largest.items()}
    samples: dict[str, list[np.ndarray]] = {t: [] for t in tensors}
    every = max(1, sum(steps) // sample_steps)
    reach = {t: largest[name] for t, name in tensors.items()}
    starts = accumulate(steps, initial=0)
    work = ((data, contract, reach, g, start, every) for g, start in zip(groups, starts, strict=False))
    second_pass = in_order(_observe_histograms, work, jobs, cluster)
    for group, (histograms, kept) in zip(groups, second_pass, strict=True):
        for t, name in tensors.items():
            observers[name].add(histograms[t])
            samples[t].extend(kept[t])
        progress(len(group))
    ranges = {t: observers[name] for t, name in tensors.items()}
    return Calibration(ranges, {t: np.stack(samples[t]) for t in tensors}, len(clips), sum(steps), data_sha256)


@functools.lru_cache(maxsize=1)
def _stream(data: bytes, contract: StreamContract, tensors: tuple[str, ...]) -> OnnxStream:
    return OnnxStream(onnx.load_from_string(data), contract, extra_outputs=list(tensors))


def _observe_ranges(
    data: bytes, contract: StreamContract, tensors: tuple[str, ...], group: tuple[Path, ...]
) -> tuple[dict[str, float], int]:
    """Largest magnitude of every tensor, and the number of steps that are neither padding nor pauses."""
    observers, steps = {t: Observer(t) for t in tensors}, 0
    for values in _steps(_stream(data, contract, tensors), group, tensors):
        steps += len(values[tensors[0]])
        for t, observer in observers.items():
            observer.observe_range(values[t])
    return {t: o.largest for t, o in observers.items()}, steps


def _observe_histograms(
    data: bytes, contract: StreamContract, largest: dict[str, float], group: tuple[Path, ...], seen: int, every: int
) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """Counts of every tensor, and its values at the steps whose number is a multiple of ``every``, ``seen`` being the first's."""
    observers = {t: Observer(t, value) for t, value in largest.items()}
    samples: dict[str, list[np.ndarray]] = {t: [] for t in largest}
    first = next(iter(largest))
    for values in _steps(_stream(data, contract, tuple(largest)), group, tuple(largest)):
        here = len(values[first])
        wanted = [i for i in range(here) if (seen + i) % every == 0]
        seen += here
        for t, observer in observers.items():
            observer.observe_histogram(values[t])
            samples[t].extend(values[t][wanted])
    return {t: o.histogram for t, o in observers.items()}, samples


def _steps(stream: OnnxStream, group: tuple[Path, ...], tensors: tuple[str, ...]) -> Iterator[dict[str, np.ndarray]]:
    """Tensor values of every step of a group of clips that is neither padding nor a pause."""
    size = stream.contract.samples_per_step
    clips = [load_audio(path, stream.contract.sample_rate) for path in group]
    steps = max(-(-len(a) // size) for a in clips)
    audio = np.zeros((len(clips), steps, size), dtype=np.float32)
    for row, a in enumerate(clips):
        audio[row].reshape(-1)[: len(a)] = a
    loudness = np.sqrt((audio**2).mean(axis=2))
    active = loudness > np.maximum(loudness.max(axis=1, keepdims=True) * QUIET, 1e-6)
    stream.reset(len(clips))
    for step in range(steps):
        values = stream.step(audio[:, step])
        if active[:, step].any():
            yield {t: values[t][active[:, step]] for t in tensors}
