"""Engine and Stream: many calls through one compiled step, batched.

The engine owns the model, one state row per slot, and the arena; a stream is one call's slot. Push audio as it comes, call
``step()``: every stream that has 160 ms ready goes through the network, in batches of up to 16. Nothing on that path loops over
streams in Python.

    engine = Engine("emotion-host.edgeemo", max_streams=80)
    stream = engine.open()
    stream.push(samples)            # float32 at engine.sample_rate, any length
    for result in engine.step():
        print(result.stream, result.end_s, result.label, result.probabilities)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime.artifact import ALIGNMENT, Artifact, load_artifact
from edgeemo_runtime.audio import check_samples
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.ring import AudioRings

# From 8 to 16 streams the cost per stream falls by 2 % (docs/performance.md): what a batch shares, the weights, it has shared by
# then, while its activations take 36 kB of L2 per stream.
LARGEST_BATCH = 16


@dataclass(frozen=True)
class Result:
    """One stream's answer to one step. Times are seconds of that stream's audio."""

    stream: int
    start_s: float
    end_s: float
    probabilities: np.ndarray  # (labels,) float32, this step's
    smoothed: np.ndarray  # (labels,) float32, after EMA
    label: str  # of the smoothed probabilities


@dataclass(frozen=True)
class StepResults:
    """A batch of answers as arrays; iterate for one Result per stream."""

    streams: np.ndarray  # (n,) int64, ids as in Stream.id
    start_s: np.ndarray  # (n,) float64
    end_s: np.ndarray  # (n,) float64
    probabilities: np.ndarray  # (n, labels) float32
    smoothed: np.ndarray  # (n, labels) float32
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.streams)

    def __iter__(self) -> Iterator[Result]:
        best = self.smoothed.argmax(axis=1)
        for i in range(len(self)):
            yield Result(
                int(self.streams[i]),
                float(self.start_s[i]),
                float(self.end_s[i]),
                self.probabilities[i],
                self.smoothed[i],
                self.labels[best[i]],
            )


class Stream:
    """One call. Made by Engine.open; ``id`` is unique over the engine's life, its slot is not."""

    def __init__(self, engine: Engine, slot: int, id_: int) -> None:
        self._engine, self._slot, self.id = engine, slot, id_
        self._open = True

    def _check_open(self) -> None:
        if not self._open:
            raise EdgeEmoError(f"stream {self.id} is closed; open another")

    def push(self, samples: np.ndarray) -> None:
        """Adds audio: float32 in [-1, 1] or int16, mono, any length, at the engine's rate.

        Raises EdgeEmoError for a closed stream, another shape or dtype, or samples that are not finite.
        """
        self._check_open()
        samples = np.asarray(samples)
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / 32768.0
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise EdgeEmoError(
                f"push takes float32 or int16 samples of one channel, not {samples.dtype} of shape {samples.shape}"
            )
        if samples.size:
            check_samples(samples, f"stream {self.id}")
            self._engine._rings.push(self._slot, samples)

    def finish(self) -> None:
        """No more audio: fills what is left up to a whole step with silence, so that the next step() answers for it."""
        self._check_open()
        size = self._engine.samples_per_step
        if rest := self._engine._rings.waiting(self._slot) % size:
            self._engine._rings.push(self._slot, np.zeros(size - rest, dtype=np.float32))

    def recent(self) -> np.ndarray:
        """The last samples the network has seen, at most the ring of 51 frames (680 ms), float32."""
        self._check_open()
        return self._engine._rings.recent(self._slot)

    def close(self) -> None:
        """Frees the slot; its state, ring and smoothing are cleared before anyone else gets it."""
        if self._open:
            self._open = False
            self._engine._release(self._slot)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Engine:
    """A compiled model and room for ``max_streams`` calls. Not for sharing between threads: one engine, one thread, one core."""

    def __init__(self, artifact: str | Path | Artifact, max_streams: int = 64, alpha: float = 0.3) -> None:
        """``alpha`` in (0, 1] is the weight of the newest step in the moving average.

        Raises EdgeEmoError if the artifact does not load or is not a streaming model, or an argument is out of range.
        """
        import tvm_ffi

        if max_streams < 1:
            raise EdgeEmoError(f"max_streams must be at least 1, not {max_streams}")
        if not 0 < alpha <= 1:
            raise EdgeEmoError(f"alpha must lie in (0, 1], not {alpha}")
        self.artifact = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
        manifest = self.artifact.manifest
        stream = manifest["stream"]
        if stream is None:
            raise EdgeEmoError(f"{self.artifact.path}: has no stream contract, so audio cannot be streamed through it")
        self.sample_rate: int = stream["sample_rate"]
        self.samples_per_step: int = stream["samples_per_step"]
        self.labels: tuple[str, ...] = tuple(stream["labels"])
        self.max_streams, self.alpha = max_streams, alpha
        step = manifest["step"]
        self._step = self.artifact.load_step()
        self._tensor = tvm_ffi.from_dlpack
        batch = min(max_streams, LARGEST_BATCH)
        self._states = aligned_zeros((max_streams, step["state_words"]), np.float32)
        self._arena = aligned_zeros((batch * max(ALIGNMENT, step["arena_bytes_per_stream"]),), np.uint8)
        self._audio = aligned_zeros((batch, self.samples_per_step), np.float32)
        self._slots = aligned_zeros((batch,), np.int32)
        self._out = aligned_zeros((batch, len(self.labels)), np.float32)
        self._fixed = [self._tensor(a) for a in (self._states, self.artifact.weights, self._arena)]
        self._views: dict[int, list[Any]] = {}
        self._rings = AudioRings(max_streams, self.samples_per_step, stream["ring_samples"])
        self._smoothed = np.zeros((max_streams, len(self.labels)), dtype=np.float32)
        self._steps_done = np.zeros(max_streams, dtype=np.int64)
        self._ids = np.full(max_streams, -1, dtype=np.int64)
        self._free = list(range(max_streams - 1, -1, -1))
        self._next_id = 0

    @property
    def open_streams(self) -> int:
        return self.max_streams - len(self._free)

    def open(self) -> Stream:
        """A new stream. Raises EdgeEmoError when all slots are taken."""
        if not self._free:
            raise EdgeEmoError(f"all {self.max_streams} streams are in use; close one, or make the engine with more")
        slot = self._free.pop()
        self._ids[slot] = self._next_id
        self._next_id += 1
        return Stream(self, slot, self._next_id - 1)

    def step(self) -> StepResults:
        """Runs every stream that has a whole step of audio, once, batched. Call again until it returns none."""
        ready = self._rings.ready()
        probabilities = np.empty((len(ready), len(self.labels)), dtype=np.float32)
        for first in range(0, len(ready), LARGEST_BATCH):
            slots = ready[first : first + LARGEST_BATCH]
            n = len(slots)
            self._slots[:n] = slots
            self._rings.take(slots, self._audio[:n])
            self._step(*self._arguments(n))
            probabilities[first : first + n] = self._out[:n]
        first = self._steps_done[ready] == 0
        weight = np.where(first, 1.0, self.alpha).astype(np.float32)[:, None]
        smoothed = weight * probabilities + (1.0 - weight) * self._smoothed[ready]
        self._smoothed[ready] = smoothed
        start = self._steps_done[ready] * (self.samples_per_step / self.sample_rate)
        self._steps_done[ready] += 1
        seconds = self.samples_per_step / self.sample_rate
        return StepResults(self._ids[ready], start, start + seconds, probabilities, smoothed, self.labels)

    def _arguments(self, n: int) -> list[Any]:
        """The step's arguments for a batch of n, made once per batch size: wrapping an array costs more than calling."""
        if n not in self._views:
            slots, audio, out = (self._tensor(a[:n]) for a in (self._slots, self._audio, self._out))
            self._views[n] = [slots, audio, *self._fixed, out]
        return self._views[n]

    def _release(self, slot: int) -> None:
        self._states[slot] = 0
        self._smoothed[slot] = 0
        self._steps_done[slot] = 0
        self._ids[slot] = -1
        self._rings.clear(slot)
        self._free.append(slot)


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros at a multiple of 64 bytes, with as many after them that may be read: compiled code takes both for granted."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 2 * ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
