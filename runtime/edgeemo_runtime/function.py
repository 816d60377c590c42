"""A compiled graph that hears no audio: arrays in, arrays out, a row per item of a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime.artifact import Artifact, load_artifact
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.memory import ALIGNMENT, aligned_zeros
from edgeemo_runtime.model import MAX_BATCH, misfit

# LLVM loads whole vectors of what is padded and drops what lies beyond: as far in front of an array as it is padded. Pages that
# are never written take no memory.
MARGIN = 1 << 16


class Function:
    """An artifact without a stream contract. Not for sharing between threads."""

    def __init__(self, artifact: str | Path | Artifact) -> None:
        """Raises EdgeEmoError if the artifact does not load here, or streams audio (Engine runs those)."""
        import tvm_ffi

        self.artifact = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
        if self.artifact.manifest["stream"] is not None:
            raise EdgeEmoError(f"{self.artifact.path}: streams audio; give it calls, or an Engine in Python")
        step = self.artifact.manifest["step"]
        self._call = self.artifact.load_step()
        self._tensor = tvm_ffi.from_dlpack
        self._inputs, self._outputs = step["inputs"], step["outputs"]
        self._arena = aligned_zeros((MAX_BATCH * max(ALIGNMENT, step["arena_bytes_per_stream"]),), np.uint8, MARGIN)
        self._states = aligned_zeros((1, max(1, step["state_words"])), np.float32)

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """By name: dtype, and shape without the batch."""
        return {i["name"]: (i["dtype"], tuple(i["shape"])) for i in self._inputs}

    def run(self, feed: dict[str, Any]) -> dict[str, np.ndarray]:
        """``feed``: an array (batch, ...) for every input. Outputs by name, (batch, ...), as their dtypes say. Large batches go
        in pieces of 16.

        Raises EdgeEmoError naming an input that is missing, or of another shape or kind.
        """
        arrays = [self._checked(name, kind, shape, feed) for name, (kind, shape) in self.inputs.items()]
        batches = {len(a) for a in arrays}
        if len(batches) != 1 or 0 in batches:
            raise EdgeEmoError(f"{self.artifact.path}: inputs have batches of {sorted(batches)}; one size, at least 1")
        pieces = [self._piece([a[i : i + MAX_BATCH] for a in arrays]) for i in range(0, batches.pop(), MAX_BATCH)]
        return {o["name"]: np.concatenate([p[n] for p in pieces]) for n, o in enumerate(self._outputs)}

    def _checked(self, name: str, kind: str, shape: tuple[int, ...], feed: dict[str, Any]) -> np.ndarray:
        if name not in feed:
            raise EdgeEmoError(f"{self.artifact.path}: no input {name}; it takes {', '.join(self.inputs)}")
        array = np.asarray(feed[name])
        if array.shape[1:] != shape or not np.can_cast(array.dtype, kind, "same_kind"):
            wanted = f"{kind} (batch{''.join(f', {d}' for d in shape)})"
            raise EdgeEmoError(f"{self.artifact.path}: input {name} is {array.dtype} {array.shape}; it takes {wanted}")
        return array.astype(kind)

    def bound(self, n: int, noise: np.random.Generator) -> Callable[[], Any]:
        """The compiled step on ``n`` made-up items, ready to be called: what benchmarks measure without the Python around it."""
        arrays = []
        for kind, shape in self.inputs.values():
            whole = np.dtype(kind).kind != "f"
            arrays.append((noise.integers(0, 10, (n, *shape)) if whole else noise.standard_normal((n, *shape))).astype(kind))
        return self._bound(arrays)[0]

    def warm_up(self) -> None:
        """One item of zeros. Raises EdgeEmoError if the compiled code does not take what the manifest says."""
        self._piece([np.zeros((1, *shape), dtype=kind) for kind, shape in self.inputs.values()])

    def _piece(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        step, out = self._bound(arrays)
        try:
            step()
        except (RuntimeError, ValueError, TypeError) as error:
            raise misfit(self.artifact, error) from error
        return out

    def _bound(self, arrays: list[np.ndarray]) -> tuple[Callable[[], Any], list[np.ndarray]]:
        """The step on copies of ``arrays``, and where it writes to."""
        n = len(arrays[0])
        given = [aligned_zeros(a.shape, a.dtype, MARGIN) for a in arrays]
        for mine, its in zip(given, arrays, strict=True):
            mine[:] = its
        out = [aligned_zeros((n, *o["shape"]), np.dtype(o["dtype"]), MARGIN) for o in self._outputs]
        call = [aligned_zeros((n,), np.int32), *given, self._states, self.artifact.weights, self._arena, *out]
        return partial(self._call, *(self._tensor(a) for a in call)), out
