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
from edgeemo.quantize.calibration.moments import Key, Moments
from edgeemo.quantize.calibration.observer import Observer, Range
from edgeemo.quantize.calibration.sources import Group, Source, hash_source

SAMPLE_STEPS = 24  # steps whose layer inputs are kept to measure SQNR on
SAMPLE_BYTES = 1 << 26  # of all tensors' samples of so many steps together: a large model keeps fewer
ALIKE = 32  # readers of one weight share a range where theirs is not more than so many times smaller than the widest's

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Calibration:
    """Ranges by tensor name, and per tensor a few float inputs (steps, ...) that the report measures error on (none where the
    ranges were read from a file); what rounding.py has to know of layers' inputs, None where nobody looked."""

    ranges: Mapping[str, Range]
    samples: Mapping[str, np.ndarray]
    clips: int
    steps: int
    data_sha256: str
    moments: Mapping[Key, Moments] | None = None


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
    own, sizes = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0)
    steps = []
    first_pass = in_order(_observe_ranges, ((data, source, names, g) for g in groups), jobs, cluster, [data])
    for group, (found, bytes_, spoken) in zip(groups, first_pass, strict=True):
        for tensor, value in found.items():
            own[tensor] = max(own[tensor], value)
        sizes |= bytes_
        steps.append(spoken)
        progress(len(group))
    if sum(steps) == 0:
        raise EdgeEmoError(source.nothing())
    shared = _sharing(tensors, own)
    largest = {name: max(own[t] for t, n in shared.items() if n == name) for name in dict.fromkeys(shared.values())}
    observers = {name: Observer(name, value) for name, value in largest.items()}
    samples: dict[str, list[np.ndarray]] = {t: [] for t in tensors}
    every = max(1, sum(steps) // sample_steps)
    room = max(1, SAMPLE_BYTES * sample_steps // SAMPLE_STEPS // len(tensors))  # bytes of one tensor
    apart = {t: every * max(1, -(-sample_steps * sizes[t] // room)) for t in tensors}
    reach = {t: largest[name] for t, name in shared.items()}
    starts = accumulate(steps, initial=0)
    work = ((data, source, reach, g, start, apart) for g, start in zip(groups, starts, strict=False))
    second_pass = in_order(_observe_histograms, work, jobs, cluster, [data])
    for group, (histograms, kept) in zip(groups, second_pass, strict=True):
        for t, name in shared.items():
            observers[name].add(histograms[t])
            samples[t].extend(kept[t])
        progress(len(group))
    ranges = {t: observers[name] for t, name in shared.items()}
    return Calibration(ranges, {t: np.stack(samples[t]) for t in tensors}, sum(map(len, groups)), sum(steps), hash_source(source))


def _sharing(tensors: dict[str, str], own: dict[str, float]) -> dict[str, str]:
    """By tensor the name of its observer: as asked, but of its own for one so much smaller than the widest that it would be left
    with few levels, or none."""
    widest: dict[str, float] = {}
    for tensor, name in tensors.items():
        widest[name] = max(widest.get(name, 0.0), own[tensor])
    alike = {t: own[t] * ALIKE >= widest[name] or own[t] == 0 for t, name in tensors.items()}
    leader: dict[str, str] = {}  # the first that shares: an observer is named after a tensor whose range it has
    for tensor, name in tensors.items():
        if alike[tensor]:
            leader.setdefault(name, tensor)
    return {t: leader[name] if alike[t] else t for t, name in tensors.items()}


def _observe_ranges(
    data: bytes, source: Source, tensors: tuple[str, ...], group: Group
) -> tuple[dict[str, float], dict[str, int], int]:
    """Largest magnitude of every tensor, bytes of one step's value, and the number of steps that are no padding or pauses."""
    observers, steps = {t: Observer(t) for t in tensors}, 0
    sizes: dict[str, int] = {}
    for values in source.values(data, tensors, group):
        steps += len(values.get(tensors[0], ()))
        for t, found in values.items():
            observers[t].observe_range(found)
            sizes[t] = found[:1].nbytes
    return {t: o.largest for t, o in observers.items()}, sizes, steps


def _observe_histograms(
    data: bytes, source: Source, largest: dict[str, float], group: Group, seen: int, apart: dict[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """Counts of every tensor, and its values at the steps whose number is a multiple of its ``apart``, ``seen`` being the
    first's."""
    observers = {t: Observer(t, value) for t, value in largest.items()}
    samples: dict[str, list[np.ndarray]] = {t: [] for t in largest}
    first, begun = next(iter(largest)), seen
    for values in source.values(data, tuple(largest), group):
        if first in values:
            begun, seen = seen, seen + len(values[first])
        for t, found in values.items():
            observers[t].observe_histogram(found)
            samples[t].extend(found[i].copy() for i in range(len(found)) if (begun + i) % apart[t] == 0)
    return {t: o.histogram for t, o in observers.items()}, samples
