"""The front process: engines, calls, listeners, and what comes between a signal and the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from pathlib import Path
from typing import Any

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.ops.config import Config
from edgeemo_runtime.ops.lines import log
from edgeemo_runtime.serve import systemd
from edgeemo_runtime.serve.audiosocket import AudioSocketConnection
from edgeemo_runtime.serve.auth import Auth
from edgeemo_runtime.serve.calls import Calls
from edgeemo_runtime.serve.doorman import Doorman
from edgeemo_runtime.serve.pool import Pool
from edgeemo_runtime.serve.rtp import RtpPorts
from edgeemo_runtime.serve.settings import LISTENERS, Settings, is_loopback, parse_address
from edgeemo_runtime.serve.sinks import make_sinks
from edgeemo_runtime.serve.web import WebServer

BACKLOG = 512  # connections that wait to be accepted


class Service:
    """Everything of one front process. ``start``, then ``wait``, then ``close``."""

    def __init__(
        self, artifact: Path, settings: Settings, config: Config, trust: list[str] | None = None, allow_writable: bool = False
    ) -> None:  # fmt: skip
        """Raises EdgeEmoError for settings that would serve others without authentication."""
        self.settings, self.config = settings, config
        self.auth = Auth(settings)
        _check_exposure(settings, self.auth)
        self.pool = Pool(artifact, settings, config, trust or [], allow_writable)
        self.calls = Calls(self.pool, settings)
        self.doorman = Doorman(settings.limits)
        self.rtp = RtpPorts(self)
        self.web = WebServer(self)
        self.sinks = make_sinks(settings, self.calls)
        self.addresses: dict[str, list[tuple[str, int]]] = {name: [] for name in LISTENERS}  # that are listened at
        self._servers: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task] = []
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Until calls are taken. Raises EdgeEmoError if an engine or an address cannot be had."""
        given = systemd.given_sockets()
        try:
            await self._listen_tcp("audiosocket", given, self._serve_audiosocket)
            for name in ("websocket", "http"):
                await self._listen_tcp(name, given, self.web.serve)
            await self.rtp.listen(self.settings.listen.rtp)
            await self.pool.start()
        except BaseException:
            await self.close()
            raise
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.calls.sweep()), loop.create_task(self._beat())]
        self._tasks += [loop.create_task(sink.run()) for sink in self.sinks]
        systemd.notify(f"READY=1\nSTATUS=ready for {self.pool.capacity} channels")

    async def _listen_tcp(self, name: str, given: dict[str, list[socket.socket]], serve: Any) -> None:
        """Sockets that systemd passes take the place of those in the settings."""
        sockets = given.get(name) or [_bound(text, name) for text in getattr(self.settings.listen, name)]
        for one in sockets:
            self.addresses[name].append(one.getsockname()[:2])
            self._servers += await serve(one)

    async def _serve_audiosocket(self, one: socket.socket) -> list[asyncio.Server]:
        loop = asyncio.get_running_loop()
        return [await loop.create_server(lambda: AudioSocketConnection(self), sock=one, backlog=BACKLOG)]

    async def _beat(self) -> None:
        """Signs of life for systemd's watchdog."""
        while True:
            await asyncio.sleep(systemd.WATCHDOG_S)
            systemd.notify(f"WATCHDOG=1\nSTATUS={len(self.calls.running)} calls, {self.pool.headroom} channels free")

    @property
    def readiness(self) -> str:
        """Why no further call is taken; empty if one is."""
        if self.calls.draining:
            return "draining"
        if not self.pool.capacity:
            return "no engine is ready"
        return "" if self.pool.headroom else "full"

    def install_signal_handlers(self) -> None:
        """SIGTERM and SIGINT drain, a second one ends at once; SIGHUP has the folder of models looked at."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def reload(self) -> None:
        """Reads the files of secrets again, and has the folder of models looked at."""
        try:
            self.auth.load()
        except EdgeEmoError as error:
            log("secrets_not_read", reason=str(error))
        self.pool.look()

    def stop(self) -> None:
        if self.calls.draining:
            self._ended.set()
            return
        systemd.notify("STOPPING=1")
        log("draining", calls=len(self.calls.running), seconds=self.settings.limits.drain_s)
        task = asyncio.get_running_loop().create_task(self.calls.drain(self.settings.limits.drain_s))
        task.add_done_callback(lambda _: self._ended.set())
        self._tasks.append(task)

    async def wait(self) -> None:
        """Until the service has been stopped and its calls have ended."""
        await self._ended.wait()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self.rtp.close()
        for sink in self.sinks:
            with contextlib.suppress(Exception):
                await sink.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.web.close()
        await self.pool.close()


def _bound(text: str, name: str) -> socket.socket:
    host, port, _ = parse_address(text, name)
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        one = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(address)
        one.listen(BACKLOG)
    except OSError as error:
        raise EdgeEmoError(
            f"{name} {text}: cannot be had ({error.strerror}); --listen {name}=HOST:PORT chooses another"
        ) from error
    return one


def _check_exposure(settings: Settings, auth: Auth) -> None:
    """Nothing but this machine is served without authentication unless told so."""
    if settings.auth.insecure:
        return
    for name in LISTENERS:
        for text in getattr(settings.listen, name):
            if is_loopback(parse_address(text, name)[0]):
                continue
            peers = {"audiosocket": settings.audiosocket, "rtp": settings.rtp}.get(name)
            if peers is not None and not (peers.allow or peers.known_calls):
                way = f"allow or known_calls in [{name}]"
            elif peers is None and not auth.any:
                way = "tokens in [auth], or client_ca in [tls]"
            else:
                continue
            raise EdgeEmoError(f"{name} {text}: others could connect without authentication; set {way}, or --insecure")
