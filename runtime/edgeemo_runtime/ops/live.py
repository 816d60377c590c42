"""The loop of a live process: audio as it becomes due, batches as the scheduler says, everything else in between."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from edgeemo_runtime.audio import ArrayAudio, Audio
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.results import StepResults
from edgeemo_runtime.schedule import Scheduler
from edgeemo_runtime.stream import OverloadError, Stream

POLL_S = 0.02  # between two looks at everything else


@dataclass
class Call:
    """Recorded audio, float32 at the engine's rate, that is to come as a live call would: in memory, or opened when it begins."""

    name: str
    audio: np.ndarray | Callable[[], Audio]
    begins_s: float = 0.0  # after the loop's start
    user: str = ""

    def open(self) -> Audio:
        return ArrayAudio(self.audio) if isinstance(self.audio, np.ndarray) else self.audio()


@dataclass
class _Running:
    call: Call
    stream: Stream | None = None
    audio: Audio | None = None
    piece: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))  # what comes next
    last: bool = False  # nothing comes after it


class LiveLoop:
    def __init__(self, engine: Engine, scheduler: Scheduler, sleep: Callable[[float], None] = time.sleep) -> None:
        self.engine, self.scheduler, self._sleep = engine, scheduler, sleep
        self.names: dict[int, str] = {}  # of streams by id
        self.busy_s = 0.0  # in steps
        self._failed: Callable[[Call, EdgeEmoError], None] | None = None

    def run(
        self,
        calls: Iterable[Call],
        poll: Callable[[], bool] = lambda: True,
        failed: Callable[[Call, EdgeEmoError], None] | None = None,
        poll_s: float = POLL_S,
    ) -> Iterator[tuple[StepResults, list[Call]]]:
        """Yields every batch's results, and the calls refused since the last. ``poll`` is called every ``poll_s`` between two
        steps; False ends the loop. ``calls`` by their begin; each is closed when its last hop has been answered. A call whose
        audio cannot be read, or not to its end, ends there and is told to ``failed``; without that its error is raised."""
        self._failed = failed
        engine = self.engine
        began = engine.clock()
        coming = sorted(calls, key=lambda c: c.begins_s)
        order = itertools.count()
        # When a call begins, then when the last sample of each of its hops would have come.
        due = [(began + c.begins_s, next(order), _Running(c)) for c in coming]
        heapq.heapify(due)
        ending: list[_Running] = []
        refused: list[Call] = []
        next_poll = began
        while due or ending:
            now = engine.clock()
            if now >= next_poll:
                if not poll():
                    break
                next_poll = now + poll_s
            while due and due[0][0] <= now:
                at, _, running = heapq.heappop(due)
                if running.stream is None:
                    if not self._open(running):
                        refused.append(running.call)
                        continue
                    self._read(running)
                else:
                    self._send(running, at)
                if running.last and not len(running.piece):
                    ending.append(running)
                else:
                    heapq.heappush(due, (at + len(running.piece) / engine.sample_rate, next(order), running))
            slots, since = engine.ready()
            start = self.scheduler.start_at(since)
            if start <= now:
                batch = slots[: self.scheduler.size(since, now)]
                mixed = engine.fleet.moving or len(engine.fleet.models) > 1
                results = engine.step(batch)
                took = engine.clock() - now
                self.busy_s += took
                if not mixed:  # a replay, or a batch split over two models, says nothing of what a batch costs
                    self.scheduler.observe(len(batch), took)
                yield results, refused
                refused = []
                ending = self._close_done(ending)
            else:
                wake = min(start, due[0][0] if due else float("inf"), next_poll)
                self._sleep(max(0.0, wake - engine.clock()))
                ending = self._close_done(ending) if not len(slots) else ending

    def _open(self, running: _Running) -> bool:
        try:
            running.stream = self.engine.open(running.call.user)
        except OverloadError:
            return False
        self.names[running.stream.id] = running.call.name
        return True

    def _read(self, running: _Running) -> None:
        """Reads up to the end of the stream's hop, or of the call."""
        assert running.stream is not None
        hop = self.engine.samples_per_step
        wanted = hop - running.stream.waiting() % hop
        try:
            if running.audio is None:
                running.audio = running.call.open()
            running.piece = running.audio.read(wanted)
        except EdgeEmoError as error:
            if self._failed is None:
                raise
            self._failed(running.call, error)
            running.piece = running.piece[:0]
        running.last = len(running.piece) < wanted

    def _send(self, running: _Running, came: float) -> None:
        assert running.stream is not None
        running.stream.push(running.piece, came=came)
        if running.last:
            running.stream.finish()
            running.piece = running.piece[:0]
        else:
            self._read(running)
            if running.last and not len(running.piece):
                running.stream.finish()

    def _close_done(self, ending: list[_Running]) -> list[_Running]:
        left = []
        for running in ending:
            assert running.stream is not None
            if running.stream.waiting():
                left.append(running)
            else:
                self.names.pop(running.stream.id, None)
                running.stream.close()
        return left
