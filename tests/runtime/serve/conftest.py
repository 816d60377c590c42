"""A service that runs next to the tests, on ports of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edgeemo_runtime import PRESETS
from edgeemo_runtime.ops.config import Config, EngineRules
from edgeemo_runtime.serve.service import Service
from edgeemo_runtime.serve.settings import ListenRules, ServeRules, Settings

WAIT_S = 60.0


@pytest.fixture(scope="session")
def artifact(request: pytest.FixtureRequest) -> Path:
    """The INT8 artifact for this machine; EDGEEMO_ARTIFACT names one that is there, which saves making it."""
    if name := os.environ.get("EDGEEMO_ARTIFACT"):
        return Path(name)
    return request.getfixturevalue("host_artifacts")["int8"]


LISTEN = ListenRules(("127.0.0.1:0",), ("127.0.0.1:0",), ("127.0.0.1:0",) * 4, ("127.0.0.1:0",))
SERVE = ServeRules(engines=1, capacity="max_streams", pin=False)
CONFIG = Config(engine=EngineRules(max_streams=8, spread_phases=False), decision=PRESETS["raw"])


class Running:
    """A service in a thread of its own."""

    def __init__(self, artifact: Path, settings: Settings | None = None, config: Config = CONFIG) -> None:
        settings = replace(settings or Settings(), listen=LISTEN)
        if settings.serve == ServeRules():
            settings = replace(settings, serve=SERVE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.service: Service = self.do(self._start(artifact, settings, config))

    async def _start(self, artifact: Path, settings: Settings, config: Config) -> Service:
        service = Service(artifact, settings, config, allow_writable=True)
        await service.start()
        return service

    async def _end(self) -> None:
        await self.service.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs something in the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def port(self, listener: str) -> int:
        return self.service.addresses[listener][0][1]

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port('http')}"

    @property
    def websocket(self) -> str:
        return f"ws://127.0.0.1:{self.port('websocket')}"

    def close(self) -> None:
        self.do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()


@pytest.fixture(scope="session")
def serve(artifact: Path) -> Iterator[Callable[..., Running]]:
    """Starts a service with settings of a test's own; all of them end with the session at the latest."""
    made: list[Running] = []

    def start(settings: Settings | None = None, config: Config = CONFIG) -> Running:
        made.append(Running(artifact, settings, config))
        return made[-1]

    yield start
    for running in made:
        if running._thread.is_alive():
            running.close()


@pytest.fixture(scope="session")
def running(serve: Callable[..., Running]) -> Running:
    """One that tests share: 8 channels, the network's answers without rules, no lead-in."""
    return serve()
