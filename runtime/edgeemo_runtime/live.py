"""The loop of a live process: audio as it becomes due, batches as the scheduler says, everything else in between."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edgeemo_runtime.engine import Engine, OverloadError, Stream
from edgeemo_runtime.results import StepResults
from edgeemo_runtime.schedule import Scheduler


@dataclass
class Call:
    """Recorded audio, float32 at the engine's rate, that is to come as a live call would."""

    name: str
    audio: np.ndarray
    begins_s: float = 0.0  # after the loop's start
    user: str = ""


@dataclass
class _Running:
    call: Call
    stream: Stream | None = None
    sent: int = 0


class LiveLoop:
    def __init__(self, engine: Engine, scheduler: Scheduler, sleep: Callable[[float], None] = time.sleep) -> None:
        self.engine, self.scheduler, self._sleep = engine, scheduler, sleep
        self.names: dict[int, str] = {}  # of streams by id
        self.busy_s = 0.0  # in steps

    def run(
        self, calls: Iterable[Call], poll: Callable[[], bool] = lambda: True, poll_s: float = 0.25
    ) -> Iterator[tuple[StepResults, list[Call]]]:
        """Yields every batch's results, and the calls refused since the last. ``poll`` is called every ``poll_s`` between two
        steps; False ends the loop. ``calls`` by their begin; each is closed when its last hop has been answered."""
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
                else:
                    self._send(running, at)
                if running.sent < len(running.call.audio):
                    heapq.heappush(due, (at + self._piece(running) / engine.sample_rate, next(order), running))
                else:
                    ending.append(running)
            slots, since = engine.ready()
            start = self.scheduler.start_at(since)
            if start <= now:
                batch = slots[: self.scheduler.largest]
                results = engine.step(batch)
                took = engine.clock() - now
                self.busy_s += took
                self.scheduler.observe(len(batch), took)
                yield results, refused
                refused = []
                ending = self._close_done(ending)
            else:
                wake = min(start, due[0][0] if due else float("inf"), next_poll)
                self._sleep(max(0.0, wake - engine.clock()))
                ending = self._close_done(ending) if not len(slots) else ending

    def _piece(self, running: _Running) -> int:
        """Samples up to the end of the stream's hop, or of the call."""
        assert running.stream is not None
        hop = self.engine.samples_per_step
        return min(hop - running.stream.waiting() % hop, len(running.call.audio) - running.sent)

    def _open(self, running: _Running) -> bool:
        try:
            running.stream = self.engine.open(running.call.user)
        except OverloadError:
            return False
        self.names[running.stream.id] = running.call.name
        return True

    def _send(self, running: _Running, came: float) -> None:
        assert running.stream is not None
        piece = running.call.audio[running.sent : running.sent + self._piece(running)]
        running.stream.push(piece, came=came)
        running.sent += len(piece)
        if running.sent >= len(running.call.audio):
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
