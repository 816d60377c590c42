"""One engine process, seen from the front."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.ops.lines import log
from edgeemo_runtime.serve import wire
from edgeemo_runtime.serve.channel import Channel

END_S = 2.0  # that a process has to end by itself
START_S = 120.0  # that one may take until it is ready


@dataclass
class Launched:
    """A process that waits to be told what to serve, and our end of its connection."""

    process: asyncio.subprocess.Process
    link: socket.socket


async def launch(command: list[str], memory: int) -> Launched:
    """Raises EdgeEmoError if there can be no such process."""
    ours, theirs = wire.pair()
    handles = str(memory), str(theirs.fileno())
    try:
        process = await asyncio.create_subprocess_exec(*command, *handles, pass_fds=(memory, theirs.fileno()))
    except OSError as error:
        ours.close()
        raise EdgeEmoError(f"an engine process cannot be started ({error.strerror})") from error
    finally:
        theirs.close()
    ours.setblocking(False)
    return Launched(process, ours)


class Owner(Protocol):
    """Interface of the pool as its processes use it."""

    labels: tuple[str, ...]
    rate: int
    hop_s: float

    async def take_process(self) -> Launched: ...
    def answered(self, rows: np.ndarray, models: list[str]) -> None: ...
    def ended(self, slot: int, generation: int, reason: str, lost: int) -> None: ...
    def lost(self, engine: EngineProcess) -> None: ...


class EngineProcess:
    def __init__(self, index: int, pool: Owner) -> None:
        self.index, self._pool = index, pool
        self.capacity = self.channels = self.young_deaths = 0
        self.ready = False
        self.began = self.heard = 0.0
        self.version = ""
        self.beat: dict[str, Any] = {}
        self._models: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._link: socket.socket | None = None
        self._waiting: asyncio.Future | None = None
        self._metrics: list[dict[str, Any]] | None = None
        self._asking: asyncio.Future | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self, task: dict[str, Any]) -> None:
        """Until it is ready. Raises EdgeEmoError with what it says if it cannot be."""
        self.began = time.monotonic()
        loop = asyncio.get_running_loop()
        launched = await self._pool.take_process()
        self._process, self._link = launched.process, launched.link
        self._models, self.channels = [], 0
        self._waiting = loop.create_future()
        loop.add_reader(self._link.fileno(), self._receive)
        self.say(task)
        try:
            await asyncio.wait_for(asyncio.shield(self._waiting), START_S)
        except TimeoutError:
            self.kill()
            raise EdgeEmoError(f"an engine process was not ready within {START_S:.0f} s") from None
        finally:
            if not self.ready:
                await self._bury()

    def say(self, message: dict[str, Any]) -> None:
        """To an engine that does not read, as one that hangs, nothing is said any more: it will be started anew."""
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.send(wire.packed(message))

    def open(self, channel: Channel, position: int) -> None:
        channel.engine = self
        self.channels += 1
        self.say(
            {
                "do": "open", "slot": channel.slot, "generation": channel.generation, "user": channel.user, "position": position,
                "encoding": channel.writer.form.encoding, "rate": channel.writer.form.rate, "answered_s": channel.answered_s,
            }
        )  # fmt: skip

    async def families(self) -> list[dict[str, Any]]:
        if self._asking is None:
            self._asking, self._metrics = asyncio.get_running_loop().create_future(), []
            self.say({"do": "metrics"})
        return await asyncio.shield(self._asking)

    def kill(self) -> None:
        """Not by ``send_signal``: that waits for a child that has just ended, whom asyncio then does not find any more."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        self.say({"do": "quit"})
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), END_S)
        await self._bury()

    async def _bury(self) -> None:
        self.ready = False
        if self._link is not None:
            asyncio.get_running_loop().remove_reader(self._link.fileno())
            self._link.close()
            self._link = None
        self.kill()
        if self._process is not None:
            await self._process.wait()

    # -- what it says ----------------------------------------------------------------------------------------------------
    def _receive(self) -> None:
        while self._link is not None:
            try:
                data = self._link.recv(wire.MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            self.heard = time.monotonic()
            if data[:1] == wire.RESULTS:
                rows = np.frombuffer(data, dtype=wire.result_type(len(self._pool.labels)), offset=1)
                self._pool.answered(rows, self._models)
            else:
                self._told(json.loads(data[1:]))

    def _told(self, message: dict[str, Any]) -> None:
        match message["said"]:
            case "ready":
                self._become_ready(message)
            case "failed":
                self._refuse(message["reason"])
            case "beat":
                self.beat = message
            case "model":
                self._models.append(message["version"])
                self.version = message["version"]
            case "closed":
                self._pool.ended(message["slot"], message["generation"], "", message["lost"])
            case "refused":
                log("channel_refused", engine=self.index, reason=message["reason"])
                self._pool.ended(message["slot"], message["generation"], message["reason"], 0)
            case "metrics" if self._metrics is not None:
                self._metrics.append(message["family"])
            case "metrics-end" if self._asking is not None:
                self._asking.set_result(self._metrics)
                self._asking = self._metrics = None

    def _become_ready(self, message: dict[str, Any]) -> None:
        pool = self._pool
        labels = tuple(message["labels"])
        if pool.labels and labels != pool.labels:
            self._refuse(f"its model's labels are {', '.join(labels)}, those of the calls {', '.join(pool.labels)}")
            return
        pool.labels, pool.rate, pool.hop_s = labels, message["rate"], message["hop_s"]
        self.capacity, self.version, self.ready = message["capacity"], message["version"], True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _refuse(self, reason: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(EdgeEmoError(reason))

    def _lost(self) -> None:
        """The process is gone."""
        was_ready, self.ready, self.channels = self.ready, False, 0
        if self._asking is not None:
            self._asking.set_result([])
            self._asking = self._metrics = None
        if not was_ready:
            self._refuse("an engine process ended while it was starting")
            return
        asyncio.get_running_loop().create_task(self._bury()).add_done_callback(lambda _: self._pool.lost(self))
