"""A loaded artifact with the memory its step needs: a state row per slot, scratch, and the arrays a batch goes through."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime.abi import SPEECH, load_functions
from edgeemo_runtime.artifact import Artifact, load_artifact
from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.memory import ALIGNMENT, aligned_zeros

# From 8 to 16 streams the cost per stream falls by 2 % (docs/performance.md): what a batch shares, the weights, it has shared by
# then, while its activations take 36 kB of L2 per stream.
MAX_BATCH = 16
SUM_TOLERANCE = 1e-3  # of a step's probabilities from 1


class Model:
    """One compiled model serving up to ``slots`` streams. Not for sharing between threads."""

    def __init__(self, artifact: str | Path | Artifact, slots: int) -> None:
        """Raises EdgeEmoError if the artifact does not load here or is not a streaming model."""
        import tvm_ffi

        self.artifact = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
        manifest = self.artifact.manifest
        stream, step = manifest["stream"], manifest["step"]
        if stream is None:
            raise EdgeEmoError(f"{self.artifact.path}: has no stream contract, so audio cannot be streamed through it")
        self.version: str = self.artifact.version
        self.sample_rate: int = stream["sample_rate"]
        self.samples_per_step: int = stream["samples_per_step"]
        self.ring_samples: int = stream["ring_samples"]
        self.labels: tuple[str, ...] = tuple(stream["labels"])
        level = stream.get("intensity")  # of the label with that index: (its two names, where its evidence lies in a state row)
        self.intensity: tuple[int, tuple[str, str], int] | None = None
        if level:
            where = manifest["states"][level["state"]]["offset_words"]
            self.intensity = self.labels.index(level["label"]), tuple(level["names"]), where
        heard = stream.get("listening")  # which word of a state row counts steps of speech, and how many a label takes
        speech = (manifest["states"][heard["state"]]["offset_words"], heard["least"]) if heard else (-1, 0)
        self.speech = aligned_zeros((len(SPEECH),), np.float64)
        self.speech[:] = speech
        self.slots = slots
        self._step = self.artifact.load_step()
        self._tensor = tvm_ffi.from_dlpack
        batch = min(slots, MAX_BATCH)
        try:
            self.states = aligned_zeros((slots, step["state_words"]), np.float32)
            self._arena = aligned_zeros((batch * max(ALIGNMENT, step["arena_bytes_per_stream"]),), np.uint8)
        except MemoryError as error:
            needed = 4 * slots * step["state_words"] / 1e6
            raise EdgeEmoError(f"{self.artifact.path}: {slots} streams need {needed:.0f} MB, which are not to be had") from error
        self.audio = aligned_zeros((batch, self.samples_per_step), np.float32)
        self.batch_slots = aligned_zeros((batch,), np.int32)
        self.answers = aligned_zeros((batch, len(self.labels)), np.float32)
        self._fixed = [self._tensor(a) for a in (self.states, self.artifact.weights, self._arena)]
        self._calls: dict[int, Callable[[], Any]] = {}
        self.around = load_functions(self.artifact)
        self.around_calls: dict[int, tuple[Callable[[], Any], Callable[[], Any]]] = {}  # by batch size (compiled_rules.py)

    def run(self, slots: np.ndarray) -> np.ndarray:
        """One step of ``slots`` (n,), at most 16, on the audio that the caller put into ``audio[:n]``.

        Returns probabilities float32 (n, labels), a view that the next call writes over.
        """
        self.bound(slots)()
        return self.answers[: len(slots)]

    def bound(self, slots: np.ndarray) -> Callable[[], Any]:
        """The compiled step on ``slots``, ready to be called: what benchmarks measure without the Python around it."""
        n = len(slots)
        self.batch_slots[:n] = slots
        if n not in self._calls:  # made once per batch size: wrapping an array costs more than calling
            views = [self._tensor(a[:n]) for a in (self.batch_slots, self.audio, self.answers)]
            self._calls[n] = functools.partial(self._step, *views[:2], *self._fixed, views[2])
        return self._calls[n]

    def spoken(self, slots: np.ndarray) -> np.ndarray | None:
        """How many steps of speech each call has had (n,) float32, after its last step; None where the model does not count."""
        place = int(self.speech[0])
        return None if place < 0 else self.states[slots, place]

    def clear(self, slots: np.ndarray | list[int] | int) -> None:
        """Begins new streams in ``slots``."""
        self.states[slots] = 0

    def warm_up(self, streams: int = MAX_BATCH) -> None:
        """One step on silence, in a batch of as many slots as there are up to ``streams``, so that code and weights are in
        memory. All slots must be free. Raises EdgeEmoError if the compiled code does not take what the manifest says, or its
        answer is no probability."""
        n = min(len(self.audio), streams)
        self.audio[:n] = 0
        try:
            answer = self.run(np.arange(n))
        except (RuntimeError, ValueError, TypeError) as error:
            raise misfit(self.artifact, error) from error
        sums = answer.sum(axis=1)
        self.clear(np.arange(n))
        if not np.isfinite(answer).all() or np.abs(sums - 1).max() > SUM_TOLERANCE:
            raise EdgeEmoError(f"{self.artifact.path}: answers silence with {answer[0]}, which are no probabilities")


def misfit(artifact: Artifact, error: Exception) -> EdgeEmoError:
    """Compiled code that refused its arguments, as TVM says it over several lines."""
    return EdgeEmoError(f"{artifact.path}: its code does not fit its manifest ({first_line(error)}); compile it again")
