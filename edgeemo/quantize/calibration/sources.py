"""Sources of a model's tensors in calibration: clips streamed through it, or files of inputs where it hears no audio."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from edgeemo_runtime.audio import load_audio

from edgeemo.data.clips import Clip, evenly, hash_files
from edgeemo.data.streams import side_by_side
from edgeemo.onnxlib.contract import StreamContract
from edgeemo.onnxlib.feeds import find_feeds, read_feed
from edgeemo.onnxlib.graph import dims, known_types
from edgeemo.onnxlib.session import OnnxStream, open_session

STREAMS = 16  # clips run side by side
AT_ONCE = 1 << 27  # bytes of tensors that one run gives out
QUIET = 10 ** (-40 / 20)  # a step this far under its clip's loudest is a pause: its activations would pull thresholds to nothing

Group = tuple[Path, ...]


class Source(Protocol):
    """Picklable: workers get it whole, and a group of files each."""

    @property
    def groups(self) -> Sequence[Group]: ...

    def values(self, model: bytes, tensors: tuple[str, ...], group: Group) -> Iterator[dict[str, np.ndarray]]:
        """Tensors of every step (or item) of a group: their values, (streams or items, ...). A step may come in parts of some
        tensors each; the part with the first of ``tensors`` comes first."""
        ...

    def nothing(self) -> str:
        """Message where no group gave a step."""
        ...


def files_of(source: Source) -> list[Path]:
    return [path for group in source.groups for path in group]


def hash_source(source: Source) -> str:
    return hash_files(files_of(source))


@dataclass(frozen=True)
class ClipSource:
    contract: StreamContract
    groups: Sequence[Group]

    @classmethod
    def of(cls, contract: StreamContract, clips: list[Clip]) -> ClipSource:
        groups = [tuple(c.path for c in clips[first : first + STREAMS]) for first in range(0, len(clips), STREAMS)]
        return cls(contract, groups)

    def values(self, model: bytes, tensors: tuple[str, ...], group: Group) -> Iterator[dict[str, np.ndarray]]:
        """Steps that are neither padding nor a pause."""
        stream, size = _stream(model, self.contract, tensors), self.contract.samples_per_step
        audio, _ = side_by_side([load_audio(path, self.contract.sample_rate) for path in group], size)
        loudness = np.sqrt((audio**2).mean(axis=2))
        active = loudness > np.maximum(loudness.max(axis=1, keepdims=True) * QUIET, 1e-6)
        stream.reset(len(audio))
        for step in range(audio.shape[1]):
            found = stream.step(audio[:, step])
            if active[:, step].any():
                yield {t: found[t][active[:, step]] for t in tensors}

    def nothing(self) -> str:
        return "every calibration clip is silent; give clips with speech in them"


@dataclass(frozen=True)
class FeedSource:
    """One .npz file each (onnxlib/feeds.py)."""

    groups: Sequence[Group]

    @classmethod
    def of(cls, folder: Path, limit: int | None = None) -> FeedSource:
        """Raises EdgeEmoError where the folder holds no .npz."""
        return cls([(path,) for path in evenly(find_feeds(folder), limit)])

    def values(self, model: bytes, tensors: tuple[str, ...], group: Group) -> Iterator[dict[str, np.ndarray]]:
        """Large tensors come in several runs of one item each: what ONNX Runtime gives out it holds all at once."""
        session, graph, sizes = _session(model, tensors)
        parts = _parts(tensors, sizes)
        for path in group:
            feed = read_feed(path, graph)
            count = len(next(iter(feed.values())))
            at_once = max(1, AT_ONCE // max(sum(sizes.values()), 1))
            for start in range(0, count, at_once):
                piece = {n: a[start : start + at_once] for n, a in feed.items()}
                for part in parts:
                    yield dict(zip(part, session.run(part, piece), strict=True))
                    give_back()

    def nothing(self) -> str:
        files = files_of(self)
        return f"{files[0]}: no items in its arrays, nor in any of the {len(files)} .npz files; give (batch, ...) arrays"


@functools.lru_cache(maxsize=1)
def _stream(data: bytes, contract: StreamContract, tensors: tuple[str, ...]) -> OnnxStream:
    return OnnxStream(onnx.load_from_string(data), contract, extra_outputs=list(tensors))


def _parts(tensors: tuple[str, ...], sizes: dict[str, int]) -> list[list[str]]:
    """In order, as many at a time as AT_ONCE holds of one item."""
    parts: list[list[str]] = [[]]
    held = 0
    for tensor in tensors:
        if parts[-1] and held + sizes[tensor] > AT_ONCE:
            parts.append([])
            held = 0
        parts[-1].append(tensor)
        held += sizes[tensor]
    return parts


@functools.lru_cache(maxsize=1)
def _session(data: bytes, tensors: tuple[str, ...]):  # type: ignore[no-untyped-def]
    """A session that gives ``tensors``, the model, and bytes of one item of each (AT_ONCE where onnx infers no shape)."""
    model = onnx.load_from_string(data)
    known = known_types(model)
    sizes = {}
    for tensor in tensors:
        shape = dims(known[tensor]) if tensor in known else ("?", "?")
        whole = all(isinstance(d, int) for d in shape[1:])
        sizes[tensor] = 4 * math.prod(int(d) for d in shape[1:]) if whole else AT_ONCE
    return open_session(model, list(tensors), arena=False), model, sizes


def give_back() -> None:
    """Memory that is free in this process goes back to the system: glibc keeps what a run's large tensors lay between."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc alone
        trim(0)
