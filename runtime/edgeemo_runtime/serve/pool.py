"""The engine processes, seen from the front: started, watched, started anew; calls are given to the one with most headroom."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.ops.config import Config
from edgeemo_runtime.ops.lines import log
from edgeemo_runtime.serve.channel import Channel, Step
from edgeemo_runtime.serve.engine_process import EngineProcess, Launched, launch
from edgeemo_runtime.serve.formats import Format
from edgeemo_runtime.serve.rings import AudioWriter, SlotWriter, make_region
from edgeemo_runtime.serve.settings import Settings

YOUNG_S = 10.0  # an engine that dies before is waited for longer the next time
MAX_WAIT_S = 30.0
WATCH_S = 0.5
METRICS_S = 1.0  # that an engine has to tell its figures
REPLAY_S = 0.35  # that hearing all calls' last audio again may take
MIN_REPLAYED = 3  # hops
DEATHS = 3  # engines that a call may outlive: perhaps it is what they die of


class NoRoomError(EdgeEmoError):
    """No engine has room for another channel."""


class Pool:
    """All engines and the memory they share. For the front's event loop."""

    def __init__(self, artifact: Path, settings: Settings, config: Config, trust: list[str], allow_writable: bool) -> None:
        self.settings, self.config = settings, config
        count = settings.serve.engine_count()
        self.slots = count * config.engine.max_streams
        self.memory = make_region(self.slots)
        self.writer = AudioWriter(self.memory, self.slots)
        self._task = {
            "artifact": str(artifact), "config": asdict(config), "trust": trust, "allow_writable": allow_writable,
            "slots": self.slots,
            "priority": settings.serve.priority if len(os.sched_getaffinity(0)) > count else 0,
        }  # fmt: skip
        self.engines = [EngineProcess(i, self) for i in range(count)]
        self.channels: dict[int, Channel] = {}  # by slot
        self._free = collections.deque(range(self.slots))
        self._generation = 0
        self.labels: tuple[str, ...] = ()
        self.rate, self.hop_s = 8000, 0.16
        self.restarts = self.moved = 0
        self.resumed_s: collections.deque[float] = collections.deque(
            maxlen=1000
        )  # from an engine's death to a call's next answer
        self._tasks: set[asyncio.Task] = set()
        self._closing = False
        self.spare: Launched | None = None
        self._preparing: asyncio.Task | None = None

    # -- life ------------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Until every engine is ready. Raises EdgeEmoError with what the first that cannot start says."""
        try:
            await asyncio.gather(*(e.start(self._task_of(e)) for e in self.engines))
        except BaseException:
            await self.close()
            raise
        self._spawn(self._watch())
        if self.settings.serve.spare:
            self._preparing = self._spawn(self._prepare())

    def _task_of(self, engine: EngineProcess) -> dict[str, Any]:
        """Task of an engine process. One that ran before is not measured, and its model not tried, again: calls wait for it."""
        again = engine.capacity > 0
        fixed = engine.capacity if again or self.settings.serve.capacity == "plan" else self.config.engine.max_streams
        return {**self._task, "again": again, "capacity": fixed, "cpu": self._cpu(engine)}

    async def _prepare(self) -> None:
        """Another process with everything loaded but the model, so that one that dies is followed at once."""
        with contextlib.suppress(EdgeEmoError):
            self.spare = await launch(self.executable(), self.memory)

    async def take_process(self) -> Launched:
        """The spare process, or a new one. Raises EdgeEmoError if there can be none."""
        spare, self.spare = self.spare, None
        if self.settings.serve.spare and self.labels and not self._closing:
            self._preparing = self._spawn(self._prepare())
        if spare is not None and spare.process.returncode is None:
            return spare
        return await launch(self.executable(), self.memory)

    def _cpu(self, engine: EngineProcess) -> int:
        """The front keeps the first core where there are enough."""
        cores = sorted(os.sched_getaffinity(0))
        if self.config.engine.cpu >= 0 and len(self.engines) == 1:
            return self.config.engine.cpu
        return cores[1 + engine.index] if self.settings.serve.pin and len(cores) > len(self.engines) else -1

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        self._closing = True
        for task in self._tasks - {self._preparing}:
            task.cancel()
        if self._preparing is not None:  # a process on its way is ended, not left
            await self._preparing
        await asyncio.gather(*(e.end() for e in self.engines), return_exceptions=True)
        if self.spare is not None:
            self.spare.link.close()
            await self.spare.process.wait()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            for engine in self.engines:
                if engine.ready and time.monotonic() - engine.heard > self.settings.serve.silent_s:
                    log("engine_silent", engine=engine.index, seconds=self.settings.serve.silent_s)
                    engine.kill()

    def lost(self, engine: EngineProcess) -> None:
        """An engine's process has ended, whyever: its calls move, and another is started."""
        if self._closing:
            return
        orphans = [c for c in self.channels.values() if c.engine is engine]
        for channel in orphans:
            channel.engine, channel.moved_at = None, time.monotonic()
            channel.deaths += 1
        log("engine_died", engine=engine.index, calls=len(orphans), lived_s=round(time.monotonic() - engine.began, 1))
        self.restarts += 1
        self._settle()
        self._spawn(self._restart(engine))

    async def _restart(self, engine: EngineProcess) -> None:
        wait = self.settings.serve.restart_s
        if time.monotonic() - engine.began < YOUNG_S:
            engine.young_deaths += 1
            wait = min(MAX_WAIT_S, wait * 2 ** min(engine.young_deaths, 12))
        else:
            engine.young_deaths = 0
        while not self._closing:
            await asyncio.sleep(wait)
            try:
                await engine.start(self._task_of(engine))
            except EdgeEmoError as error:
                log("engine_not_started", engine=engine.index, reason=str(error))
                wait = min(MAX_WAIT_S, wait * 2)
                continue
            log("engine_started", engine=engine.index, took_s=round(time.monotonic() - engine.began, 2))
            self._settle()
            return

    # -- calls -----------------------------------------------------------------------------------------------------------
    @property
    def capacity(self) -> int:
        """Channels that the engines that run may take."""
        return sum(e.capacity for e in self.engines if e.ready)

    @property
    def headroom(self) -> int:
        """Channels that may still be opened."""
        return max(0, min(self.capacity - len(self.channels), len(self._free)))

    def _roomiest(self) -> EngineProcess | None:
        ready = [e for e in self.engines if e.ready and e.capacity > e.channels]
        return max(ready, key=lambda e: e.capacity - e.channels, default=None)

    def open(self, form: Format, user: str, step: Callable[[Step], None], closed: Callable[[str, int], None]) -> Channel:
        """A channel on the engine with most headroom. Raises NoRoomError."""
        engine = self._roomiest()
        if engine is None or not self._free or not self.headroom:
            raise NoRoomError(f"all {self.capacity} channels are in use" if self.capacity else "no engine is ready")
        slot = self._free.popleft()
        self._generation = self._generation % 0x7FFFFFFF + 1
        writer = SlotWriter(self.writer, slot, form)
        channel = self.channels[slot] = Channel(slot, self._generation, writer, user, step, closed)
        engine.open(channel, 0)
        return channel

    def drop(self, channel: Channel) -> None:
        """Forgets a channel at once, whatever of it has not been answered."""
        if self.channels.get(channel.slot) is channel:
            if channel.engine is not None:
                channel.engine.say({"do": "drop", "slot": channel.slot, "generation": channel.generation})
            self._release(channel)

    def _release(self, channel: Channel) -> None:
        del self.channels[channel.slot]
        if channel.engine is not None:
            channel.engine.channels -= 1
        self._free.append(channel.slot)

    def _settle(self) -> None:
        """Gives channels without an engine to those that have room, to hear their last seconds again."""
        for channel in [c for c in self.channels.values() if c.engine is None]:
            if channel.deaths >= DEATHS:
                self._finish(channel, "its engines died", 0)
                continue
            engine = self._roomiest()
            if engine is None:
                return
            engine.open(channel, self._again_from(channel))
            self.moved += 1

    def _again_from(self, channel: Channel) -> int:
        """The byte that a channel is heard from again: a whole hop, and still in its ring."""
        writer = channel.writer
        hop = max(writer.form.width, int(self.hop_s * writer.form.rate) * writer.form.width)
        read = self.writer.read[channel.slot]
        back = self._replayed_hops() * hop
        kept = writer.position - writer.capacity * 3 // 4
        return max(0, -(-max(kept, 0) // hop) * hop, (read - back) // hop * hop)

    def _replayed_hops(self) -> int:
        """As many hops as ``replay_s`` has, or as let all calls go on within REPLAY_S at what steps have cost; what a change of
        models replays at least."""
        most = int(self.settings.serve.replay_s / self.hop_s)
        cost = max((e.beat["busy_s"] / e.beat["steps"] for e in self.engines if e.beat.get("steps")), default=0.0)
        alive = max(1, sum(e.ready for e in self.engines))
        calls = -(-len(self.channels) // alive)
        return min(most, max(MIN_REPLAYED, int(REPLAY_S / max(1e-9, cost * calls))))

    # -- what engines say ------------------------------------------------------------------------------------------------
    def answered(self, rows: np.ndarray, models: list[str]) -> None:
        """A batch of answers (wire.result_type), each for its channel."""
        columns = [rows[name].tolist() for name in rows.dtype.names or ()]
        for slot, generation, *answer in zip(*columns, strict=True):
            channel = self.channels.get(slot)
            if channel is None or channel.generation != generation:
                continue
            start_s, end_s, waited_s, label, handoff, model, intensity, probabilities, smoothed = answer
            channel.answered_s = end_s
            if channel.moved_at is not None:
                self.resumed_s.append(time.monotonic() - channel.moved_at)
                channel.moved_at = None
            said = intensity.decode()
            step = Step(start_s, end_s, waited_s, label, handoff, said, probabilities, smoothed, models[model])
            try:
                channel.step(step)
            except Exception as error:  # what one call's answers are told to must not keep others from theirs
                log("answer_not_told", slot=slot, reason=f"{type(error).__name__}: {first_line(error)}")

    def ended(self, slot: int, generation: int, reason: str, lost: int) -> None:
        channel = self.channels.get(slot)
        if channel is not None and channel.generation == generation:
            self._finish(channel, reason, lost)

    def _finish(self, channel: Channel, reason: str, lost: int) -> None:
        self._release(channel)
        channel.closed(reason, lost)

    async def families(self) -> list[tuple[int, list[dict[str, Any]]]]:
        """Counters of each engine, as Prometheus families; none of an engine that does not tell in time."""
        found = []
        for engine in self.engines:
            with contextlib.suppress(TimeoutError):
                if engine.ready:
                    found.append((engine.index, await asyncio.wait_for(engine.families(), METRICS_S)))
        return found

    def look(self) -> None:
        """Has every engine look at the folder of models."""
        for engine in self.engines:
            engine.say({"do": "look"})

    def executable(self) -> list[str]:
        return [sys.executable, "-m", "edgeemo_runtime.serve.worker"]
