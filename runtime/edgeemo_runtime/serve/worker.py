"""An engine process: takes whole hops of audio from shared memory, runs the model, sends answers to the front.

Started by the front (pool.py) as `python -m edgeemo_runtime.serve.worker MEMORY SOCKET`; it ends when the front does.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime import process
from edgeemo_runtime.artifact import check_members
from edgeemo_runtime.capacity import most_streams
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.members import read_members
from edgeemo_runtime.ops import store
from edgeemo_runtime.ops.config import Config
from edgeemo_runtime.ops.lines import log
from edgeemo_runtime.ops.live import LiveLoop
from edgeemo_runtime.ops.metrics import EngineCollector
from edgeemo_runtime.ops.supervisor import Supervisor, resident_mb
from edgeemo_runtime.probe import probed
from edgeemo_runtime.results import StepResults
from edgeemo_runtime.schedule import Scheduler
from edgeemo_runtime.serve import wire
from edgeemo_runtime.serve.feed import Feed
from edgeemo_runtime.serve.formats import Format
from edgeemo_runtime.serve.rings import AudioReader
from edgeemo_runtime.serve.settings import config_from
from edgeemo_runtime.stream import OverloadError
from edgeemo_runtime.trust import Trust, load_trust

POLL_S = 0.003  # between two looks at the rings while calls are open
IDLE_S = 0.25  # and at the socket while none is
BEAT_S = 0.5  # between two signs of life
OPERATE_S = 0.02
UNSENT = 2000  # messages that wait for a front that does not read
MEASURED = (1, 2, 4, 8, 16)  # batch sizes whose cost is measured at the start
REPEATS = 8
PLAN_S = 2.0  # of simulated time for each plan


class ServedSupervisor(Supervisor):
    """One of several on the same folder: an engine whose canary another has judged follows the links."""

    def look(self) -> None:
        """Looks at the links with the next poll, as after SIGHUP."""
        self._asked = True

    @property
    def arriving(self) -> bool:
        """Whether a model is on its way."""
        return self._arriving is not None

    def poll(self) -> bool:
        if self._trying is not None and self.models and store.linked(self.models, store.CANARY) != self._trying:
            promoted = store.linked(self.models, store.CURRENT) == self._trying
            if self.engine.fleet.canary is not None:
                self.engine.end_canary(promoted, self.config.swap.carry)
            if promoted:
                self._serving = self._trying
            self._trying = None
        return super().poll()


def measured_costs(engine: Engine) -> np.ndarray:
    """Seconds of a batch by its size, [0] unused: of a few runs on silence a quick one, since a busy machine only adds;
    between sizes a straight line."""
    model, most = engine.model, min(engine.max_streams, MEASURED[-1])
    sizes = [s for s in MEASURED if s <= most]
    found = []
    for size in sizes:
        slots, times = np.arange(size), []
        for _ in range(REPEATS):
            began = time.perf_counter()
            model.run(slots)
            times.append(time.perf_counter() - began)
        found.append(sorted(times)[REPEATS // 4])
    model.clear(np.arange(most))
    costs = np.interp(np.arange(MEASURED[-1] + 1), sizes, found)
    for size in range(most + 1, MEASURED[-1] + 1):  # larger batches than there are slots cost in proportion
        costs[size] = found[-1] * size / most
    return np.maximum.accumulate(costs)


class Worker:
    def __init__(
        self, memory: int, slots: int, link: socket.socket, engine: Engine, config: Config, supervisor: ServedSupervisor
    ) -> None:
        self.reader, self.link, self.engine, self.supervisor = AudioReader(memory, slots), link, engine, supervisor
        self.scheduler = Scheduler(budget_s=config.engine.budget_ms / 1000)
        self.loop = supervisor.loop
        self.feeds: dict[int, Feed] = {}  # by slot of the region
        self._of_stream: dict[int, Feed] = {}
        self._need = np.full(slots, np.iinfo(np.int64).max, dtype=np.int64)  # written bytes from which on a slot has a hop
        self._kind = wire.result_type(len(engine.labels))
        self._versions: list[str] = []
        self._unsent: collections.deque[bytes] = collections.deque(maxlen=UNSENT)
        self._families: Any = None
        self._beaten = self._operated = float("-inf")
        self.running = True
        link.setblocking(False)

    def run(self) -> None:
        """Until the front goes, or says so."""
        while self.running:
            now = self.engine.clock()
            self._receive()
            if now - self._operated >= OPERATE_S:
                self.supervisor.poll()
                self._operated = now
            if now - self._beaten >= BEAT_S:
                self._beat(now)
            self._show_metrics()
            self._feed()
            wake = self._step()
            self._flush()
            self._close_done()
            if wake > 0 and self._families is None:
                self._rest(wake)

    def _rest(self, wake: float) -> None:
        """Sleeps until ``wake`` seconds have passed at most; the socket wakes it up while no call is open."""
        if self.feeds:
            time.sleep(min(wake, POLL_S))
            return
        with contextlib.suppress(OSError):
            self.link.settimeout(IDLE_S if not self.supervisor.arriving else OPERATE_S)
            with contextlib.suppress(TimeoutError):
                self._take(self.link.recv(wire.MAX_MESSAGE))
        self.link.setblocking(False)

    # -- what the front says ---------------------------------------------------------------------------------------------
    def _receive(self) -> None:
        while self.running:
            try:
                data = self.link.recv(wire.MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self._take(data)

    def _take(self, data: bytes) -> None:
        if not data:  # the front is gone
            self.running = False
            return
        message = json.loads(data[1:])
        match message["do"]:
            case "open":
                self._open(message)
            case "drop":
                if (feed := self.feeds.get(message["slot"])) is not None and feed.generation == message["generation"]:
                    self._forget(feed)
            case "metrics":
                if self._families is None:
                    self._families = EngineCollector(self.engine).collect()
            case "look":
                self.supervisor.look()
            case "quit":
                self.running = False

    def _open(self, message: dict[str, Any]) -> None:
        slot, generation = message["slot"], message["generation"]
        try:
            form = Format(message["encoding"], message["rate"])
            stream = self.engine.open(message["user"])
            feed = Feed(self.reader, slot, generation, form, stream, self.engine, message["position"], message["answered_s"])
        except (OverloadError, EdgeEmoError) as error:
            self._say({"said": "refused", "slot": slot, "generation": generation, "reason": str(error)})
            return
        self.feeds[slot] = self._of_stream[stream.id] = feed
        self._need[slot] = feed.needs()

    # -- audio in, answers out -------------------------------------------------------------------------------------------
    def _feed(self) -> None:
        """Moves a hop of every call that has one into the engine."""
        reader = self.reader
        due = np.flatnonzero((reader.written.view(np.int64) >= self._need) | ((reader.ended > 0) & (self._need < 1 << 62)))
        if not len(due):
            return
        reader.fence()
        for slot in due.tolist():
            feed = self.feeds[slot]
            try:
                feed.fill()
            except Exception as error:  # one call's audio must not end the others
                log("call_failed", slot=slot, reason=first_line(error))
                feed.failed = True
            self._need[slot] = feed.needs()

    def _step(self) -> float:
        """A batch, if it is time for one; else seconds until then."""
        engine, now = self.engine, self.engine.clock()
        slots, since = engine.ready()
        start = self.scheduler.start_at(since)
        if start > now:
            return min(start - now, POLL_S) if math.isfinite(start) else POLL_S
        batch = slots[: self.scheduler.largest]
        results = engine.step(batch)
        took = engine.clock() - now
        self.loop.busy_s += took
        self.scheduler.observe(len(batch), took)
        self._answer(results)
        return 0.0

    def _answer(self, results: StepResults) -> None:
        rows = np.zeros(len(results), dtype=self._kind)
        rows["waited_s"], rows["label"], rows["handoff"] = results.waited_s, results.label, results.handoff
        rows["probabilities"], rows["smoothed"] = results.probabilities, results.smoothed
        kept = []
        for i, stream in enumerate(results.streams.tolist()):
            feed = self._of_stream[stream]
            self._need[feed.slot] = feed.needs()
            start, end = max(0.0, float(results.start_s[i])), float(results.end_s[i])
            if end <= feed.answered_s:  # replayed: the front has it
                continue
            row = rows[i]
            row["slot"], row["generation"], row["start_s"], row["end_s"] = feed.slot, feed.generation, start, end
            row["intensity"], row["model"] = results.intensity[i].encode(), self._version(results.models[i])
            kept.append(i)
        if kept:
            self._send(wire.RESULTS + (rows if len(kept) == len(rows) else rows[kept]).tobytes())

    def _version(self, name: str) -> int:
        if name not in self._versions:
            self._versions.append(name)
            self._say({"said": "model", "number": len(self._versions) - 1, "version": name})
        return self._versions.index(name)

    def _close_done(self) -> None:
        for feed in [f for f in self.feeds.values() if f.done()]:
            self._forget(feed)
            self._say({"said": "closed", "slot": feed.slot, "generation": feed.generation, "lost": feed.lost_samples()})

    def _forget(self, feed: Feed) -> None:
        self._need[feed.slot] = np.iinfo(np.int64).max
        del self.feeds[feed.slot], self._of_stream[feed.stream.id]
        feed.stream.close()

    # -- to the front ----------------------------------------------------------------------------------------------------
    def _say(self, message: dict[str, Any]) -> None:
        self._send(wire.packed(message))

    def _send(self, data: bytes) -> None:
        self._unsent.append(data)
        self._flush()

    def _flush(self) -> None:
        while self._unsent:
            try:
                self.link.send(self._unsent[0])
            except BlockingIOError:
                return
            except OSError:
                self.running = False
                return
            self._unsent.popleft()

    def _beat(self, now: float) -> None:
        self._beaten = now
        self._say(
            {
                "said": "beat", "busy_s": self.loop.busy_s, "resident_mb": resident_mb(), "cpu_s": time.process_time(),
                "streams": self.engine.open_streams, "audio": self.engine.counters.document(),
                "steps": sum(c.steps for c in self.engine.fleet.counters.values()),
                "late": sum(c.late for c in self.engine.fleet.counters.values()),
            }
        )  # fmt: skip

    def _show_metrics(self) -> None:
        """One family at a time: a page of figures delays no answer."""
        if self._families is None:
            return
        family = next(self._families, None)
        if family is None:
            self._families = None
            self._say({"said": "metrics-end"})
            return
        samples = [[s.name, s.labels, s.value] for s in family.samples]
        family_of = {"name": family.name, "type": family.type, "help": family.documentation, "samples": samples}
        self._say({"said": "metrics", "family": family_of})


def make_engine(task: dict[str, Any], config: Config, trust: Trust) -> tuple[Engine, Path | None]:
    """The engine of the artifact, or of the folder of models, that the front serves. Raises EdgeEmoError."""
    path = Path(task["artifact"])
    models = path if (path / store.CURRENT).is_symlink() else None
    members = read_members(store.current(models, trust) if models else path)
    e = config.engine
    # What has run before is not tried in a child again: calls wait for it.
    artifact = check_members(members, trust) if task["again"] else probed(members, trust)
    engine = Engine(
        artifact, e.max_streams, config.decision, config.audio, "drop-oldest", e.backlog_hops, e.spread_phases,
        budget_s=e.budget_ms / 1000,
    )  # fmt: skip
    return engine, models


def _capacity(engine: Engine, config: Config) -> int:
    """Calls that the plan (docs/performance.md) lets this engine take with what batches cost here and now."""
    costs = measured_costs(engine)
    return max(1, min(engine.max_streams, most_streams(costs, PLAN_S, config.engine.spread_phases)))


def _serve(memory: int, link: socket.socket) -> None:
    import tvm_ffi  # noqa: F401 - a spare process has everything loaded before it is told what to serve

    said = link.recv(wire.MAX_MESSAGE)
    if not said:  # never needed
        return
    task = json.loads(said[1:])
    config = config_from(task["config"])
    trust = load_trust(task["trust"], task["allow_writable"])
    try:
        process.bind_process(task["cpu"], config.engine.priority)
        if task["priority"] and not config.engine.priority:
            with contextlib.suppress(EdgeEmoError):  # where it is allowed
                process.set_fifo_priority(task["priority"])
        engine, models = make_engine(task, config, trust)
        capacity = task["capacity"] or _capacity(engine, config)
    except EdgeEmoError as error:
        link.sendall(wire.packed({"said": "failed", "reason": str(error)}))
        return
    quiet = replace(config.metrics, port=0, status="")  # the front shows figures
    loop = LiveLoop(engine, Scheduler())
    supervisor = ServedSupervisor(engine, loop, replace(config, metrics=quiet), models, trust)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # the front takes them, and says what follows
        signal.signal(number, signal.SIG_IGN)
    worker = Worker(memory, task["slots"], link, engine, config, supervisor)
    process.freeze_gc()
    worker._say(
        {
            "said": "ready", "labels": engine.labels, "rate": engine.sample_rate, "hop_s": engine.step_s,
            "capacity": capacity, "version": engine.model.version,
        }
    )  # fmt: skip
    try:
        worker.run()
    finally:
        supervisor.close()


def main() -> None:
    """Takes its memory and its socket from the two descriptors on the command line."""
    process.without_openssl()
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # tvm_ffi would import it where it is: 200 MB and seconds
    memory, link = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    try:
        _serve(memory, link)
    except (BrokenPipeError, ConnectionResetError):  # the front went away
        pass
    except Exception as error:
        log("engine_failed", reason=f"{type(error).__name__}: {first_line(error)}")
        with contextlib.suppress(OSError):
            link.setblocking(True)
            link.sendall(wire.packed({"said": "failed", "reason": f"{type(error).__name__}: {first_line(error)}"}))
        if os.environ.get("EDGEEMO_DEBUG"):
            raise
        sys.exit(1)


if __name__ == "__main__":
    main()
