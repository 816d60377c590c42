"""A call's slot in an engine: audio goes in here."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgeemo_runtime.audio import check_samples
from edgeemo_runtime.errors import EdgeEmoError, first_line, printable
from edgeemo_runtime.ring import AudioRings

MAX_TIME_S = 1e15  # on an engine's clock


class OverloadError(EdgeEmoError):
    """No room: for another stream, or for more audio of one that is not being stepped."""


class Owner(Protocol):
    """Interface of an engine as its streams use it."""

    samples_per_step: int
    rings: AudioRings

    def push(self, slot: int, samples: np.ndarray, at: object | None, came: float | None) -> None: ...
    def release(self, slot: int) -> None: ...


class Stream:
    """One call. Made by Engine.open; ``id`` is unique over the engine's life, its slot is not."""

    def __init__(self, engine: Owner, slot: int, id_: int) -> None:
        self._engine, self._slot, self.id = engine, slot, id_
        self._open = True

    def _check_open(self) -> None:
        if not self._open:
            raise EdgeEmoError(f"stream {self.id} is closed; open another")

    def push(self, samples: np.ndarray, at: int | None = None, came: float | None = None) -> None:
        """Adds audio: float32 in [-1, 1] (what is beyond is clipped) or int16, mono, any length up to the backlog, at the
        engine's rate.

        ``at`` is the first sample's number in the source's own count: an RTP timestamp as it stands in the packet, of any integer
        type, or a longer count. It may begin anywhere, wrap at 2^32, and begin anew (source_clock.py): what was sent twice is
        left out, what comes late is put in its place while that is waiting, what is missing filled or the stream begun anew,
        as AudioRules says, and all of it counted. Without it all audio is taken as it comes.

        ``came``: when the last sample came, on the engine's clock, if that was not now; latencies count from it.

        Raises EdgeEmoError for a closed stream, another shape or dtype, samples that are not finite, or an ``at`` or ``came``
        that is no number; OverloadError for more than the backlog holds, where the engine refuses instead of dropping.
        """
        self._check_open()
        samples = _as_array(samples, self.id)
        if came is not None and not (isinstance(came, float | int | np.number) and -MAX_TIME_S <= came <= MAX_TIME_S):
            raise EdgeEmoError(f"stream {self.id}: came is a time on the engine's clock, not {printable(repr(came)[:60])}")
        if samples.size:
            if not np.abs(samples).max() <= 1.0:
                check_samples(samples, f"stream {self.id}")
                samples = samples.clip(-1.0, 1.0)
            self._engine.push(self._slot, samples, at, came)

    def finish(self) -> None:
        """No more audio: fills what is left up to a whole step with silence, so that the next step() answers for it."""
        self._check_open()
        size = self._engine.samples_per_step
        if rest := self._engine.rings.waiting(self._slot) % size:
            self._engine.push(self._slot, np.zeros(size - rest, dtype=np.float32), None, None)

    def room(self) -> int:
        """Samples that may be pushed before the backlog is full."""
        self._check_open()
        return self._engine.rings.room(self._slot)

    def waiting(self) -> int:
        """Samples pushed that no step has taken."""
        self._check_open()
        return self._engine.rings.waiting(self._slot)

    def recent(self) -> np.ndarray:
        """The last samples the network has seen, at most the ring (51 frames, 510 ms, of the committed model), float32."""
        self._check_open()
        return self._engine.rings.recent(self._slot)

    def close(self) -> None:
        """Frees the slot; its state, ring and smoothing are cleared before anyone else gets it."""
        if self._open:
            self._engine.release(self._slot)
            self._open = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_array(samples: object, stream: int) -> np.ndarray:
    """Samples as float32 (n,). Raises EdgeEmoError for another shape or dtype."""
    try:
        array = np.asarray(samples)
    except (ValueError, TypeError, RuntimeError) as error:
        raise EdgeEmoError(f"stream {stream}: push takes an array of samples ({first_line(error)})") from error
    if array.dtype == np.int16:
        array = array.astype(np.float32) / 32768.0
    if array.ndim != 1 or array.dtype != np.float32:
        raise EdgeEmoError(f"push takes float32 or int16 samples of one channel, not {array.dtype} of shape {array.shape}")
    return array
