"""One call's channel inside an engine process: bytes of its ring to samples of its stream, a hop at a time."""

from __future__ import annotations

import math

import numpy as np

from edgeemo_runtime.audio import stream_resampler
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.serve.formats import Format, decode
from edgeemo_runtime.serve.rings import AudioReader, SlotReader
from edgeemo_runtime.stream import Stream

NEVER = np.iinfo(np.int64).max


class Feed:
    """``position``: the byte of the call from which on it is heard here; beyond 0 after it has moved from another engine, which
    had answered up to ``answered_s``."""

    def __init__(
        self, reader: AudioReader, slot: int, generation: int, form: Format, stream: Stream, engine: Engine, position: int,
        answered_s: float,
    ) -> None:  # fmt: skip
        self.slot, self.generation, self.stream, self.form = slot, generation, stream, form
        self.answered_s = answered_s
        self._engine = engine
        self._ring = SlotReader(reader, slot, form, position)
        self._rate, self._hop = engine.sample_rate, engine.samples_per_step
        self._same_rate = form.rate == self._rate
        self._resample = None if self._same_rate else stream_resampler(form.rate, self._rate)
        self._left = np.zeros(0, dtype=np.float32)  # resampled, not yet pushed
        self._expected = 0  # what the source's count should be next
        self._jumped = 0  # how far it has jumped, in samples at the engine's rate
        self._pushed = 0
        self._finished = self._flushed = False
        self.failed = False

    def lost_samples(self) -> int:
        return self._ring.lost // self.form.width

    def _wanted(self) -> int:
        """Samples up to the end of the stream's hop."""
        return self._hop - self.stream.waiting() % self._hop

    def needs(self) -> int:
        """How many bytes must have been written before there is something to do; never while a whole hop waits for its step."""
        if self.failed or self._finished or self.stream.waiting() >= self._hop:
            return int(NEVER)
        return self._ring.position + self._missing_bytes()

    def _missing_bytes(self) -> int:
        missing = self._wanted() - len(self._left)
        return math.ceil(missing * self.form.rate / self._rate) * self.form.width if missing > 0 else 0

    def fill(self) -> None:
        """Pushes what completes a hop; at the source's end what there is, and silence up to a whole hop."""
        while not self._finished and self.stream.waiting() < self._hop:
            ended = self._ring.ended()
            available = self._ring.available()
            wanted = self._missing_bytes()
            if available < wanted and not ended:
                return
            data, count, came = self._ring.take(wanted)
            self._jumped += round((count - self._expected) * self._rate / self.form.rate)
            self._expected = count + len(data) // self.form.width
            samples = decode(data, self.form.encoding) if data else np.zeros(0, dtype=np.float32)
            if self._resample is not None:
                samples = self._resampled(samples, ended and not available)
            if len(samples):
                self._push(samples, count, came)
            elif ended and not available:
                self.stream.finish()
                self._finished = True

    def _resampled(self, samples: np.ndarray, last: bool) -> np.ndarray:
        assert self._resample is not None
        made = samples if self._flushed else self._resample(samples, last)
        self._flushed = last
        made = np.concatenate([self._left, made]).clip(-1.0, 1.0).astype(np.float32, copy=False)
        wanted = self._wanted()
        self._left = made[wanted:]
        return made[:wanted]

    def _push(self, samples: np.ndarray, count: int, came: float) -> None:
        if self._same_rate:
            self.stream.push(samples, at=count, came=came)
        else:
            # A resampler has no gaps, and gives its samples late: what the source's count jumps over, the output's does.
            self.stream.push(samples, at=self._pushed + self._jumped, came=came)
        self._pushed += len(samples)

    def done(self) -> bool:
        """Whether every hop of an ended source has been answered."""
        return self.failed or (self._finished and self.stream.waiting() < self._hop)
