"""Runs the float model over calibration data and observes the inputs of its layers. Two passes, bounded memory.

Files go in groups in their order, each group's work is a function of that group alone, and what is kept of groups are largest
values and counts: neither the number of workers nor their order can change a bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.parallel import in_order
from edgeemo.quantize.observers import Observer, Range
from edgeemo.quantize.sources import Group, Source, hash_source

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
    source: Source,
    tensors: dict[str, str],
    progress: Progress = lambda done: None,
    jobs: int = 1,
    cluster: str | None = None,
    sample_steps: int = SAMPLE_STEPS,
) -> Calibration:
    """Observes tensors over a source (read twice, never all in memory). ``tensors``: name to the name of its observer, which
    several may share. ``progress`` gets files done. ``jobs``, ``cluster``: of parallel.in_order. ``sample_steps``: to keep the
    tensors' values of, at least."""
    data, groups = model.SerializeToString(), source.groups
    names = tuple(tensors)
    largest = dict.fromkeys(tensors.values(), 0.0)
    steps = []
    first_pass = in_order(_observe_ranges, ((data, source, names, g) for g in groups), jobs, cluster, [data])
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
    work = ((data, source, reach, g, start, every) for g, start in zip(groups, starts, strict=False))
    second_pass = in_order(_observe_histograms, work, jobs, cluster, [data])
    for group, (histograms, kept) in zip(groups, second_pass, strict=True):
        for t, name in tensors.items():
            observers[name].add(histograms[t])
            samples[t].extend(kept[t])
        progress(len(group))
    ranges = {t: observers[name] for t, name in tensors.items()}
    return Calibration(ranges, {t: np.stack(samples[t]) for t in tensors}, sum(map(len, groups)), sum(steps), hash_source(source))


def _observe_ranges(data: bytes, source: Source, tensors: tuple[str, ...], group: Group) -> tuple[dict[str, float], int]:
    """Largest magnitude of every tensor, and the number of steps that are neither padding nor pauses."""
    observers, steps = {t: Observer(t) for t in tensors}, 0
    for values in source.values(data, tensors, group):
        steps += len(values[tensors[0]])
        for t, observer in observers.items():
            observer.observe_range(values[t])
    return {t: o.largest for t, o in observers.items()}, steps


def _observe_histograms(
    data: bytes, source: Source, largest: dict[str, float], group: Group, seen: int, every: int
) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """Counts of every tensor, and its values at the steps whose number is a multiple of ``every``, ``seen`` being the first's."""
    observers = {t: Observer(t, value) for t, value in largest.items()}
    samples: dict[str, list[np.ndarray]] = {t: [] for t in largest}
    first = next(iter(largest))
    for values in source.values(data, tuple(largest), group):
        here = len(values[first])
        wanted = [i for i in range(here) if (seen + i) % every == 0]
        seen += here
        for t, observer in observers.items():
            observer.observe_histogram(values[t])
            samples[t].extend(values[t][wanted])
    return {t: o.histogram for t, o in observers.items()}, samples
