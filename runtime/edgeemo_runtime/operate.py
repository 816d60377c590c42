"""What goes on between two steps of a live process: models that change, a canary that is judged, figures that are looked at."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeemo_runtime import canary, single_core, store
from edgeemo_runtime.config import Config
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.live import LiveLoop
from edgeemo_runtime.metrics import MetricsServer

STATUS_S = 1.0


def log(event: str, **what: Any) -> None:
    """One JSON object and line on stderr."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
    print(json.dumps({"time": stamp, "event": event, **what}), file=sys.stderr, flush=True)


def resident_mb() -> float:
    """Resident memory of this process, MB; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return 0.0
    return pages * 4096 / 1e6


class Operator:
    """Looks after an engine. ``models`` is the folder that edgeemo-run install writes, if the engine runs from one."""

    def __init__(self, engine: Engine, loop: LiveLoop, config: Config, models: Path | None) -> None:
        self.engine, self.loop, self.config, self.models = engine, loop, config, models
        self._serving = store.linked(models, store.CURRENT) if models else None
        self._trying: str | None = None  # the canary's name
        self._tried_since = 0.0
        self._refused: str | None = None  # a model that did not load is not tried again until the link changes
        self._looked = self._wrote = float("-inf")
        self._asked = self._ended = False
        self._began, self._steps = engine.clock(), 0
        self._server = MetricsServer(engine, config.metrics.port) if config.metrics.port else None

    def take_signals(self, end: bool) -> None:
        """SIGHUP looks at the links at once; with ``end`` SIGTERM ends the loop between two steps."""
        signal.signal(signal.SIGHUP, lambda *_: setattr(self, "_asked", True))
        if end:
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_ended", True))

    def poll(self) -> bool:
        now = self.engine.clock()
        if self.models and (self._asked or (self.config.swap.watch_s and now - self._looked >= self.config.swap.watch_s)):
            if self._asked:
                self._refused = None
            self._looked, self._asked = now, False
            self._follow(self.models)
        if self._trying is not None and self.models:
            self._judge(self.models, now)
        if self.config.metrics.status and now - self._wrote >= STATUS_S:
            self._write_status(Path(self.config.metrics.status), now)
            self._wrote = now
        if self._server is not None:
            self._server.poll()
        return not self._ended

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    # -- models ----------------------------------------------------------------------------------------------------------
    def _follow(self, models: Path) -> None:
        """What the links say against what serves."""
        wanted, trying = store.linked(models, store.CURRENT), store.linked(models, store.CANARY)
        began = self.engine.clock()
        if wanted is not None and wanted not in (self._serving, self._refused):
            with self._refusing("model_refused", wanted):
                model = self.engine.swap(models / wanted, self.config.swap.carry)
                self._serving, self._trying = wanted, None
                log("model_swapped", name=wanted, version=model.version, took_s=round(self.engine.clock() - began, 4))
        if trying is not None and self._trying is None and trying not in (self._serving, self._refused):
            with self._refusing("canary_refused", trying):
                model = self.engine.start_canary(models / trying, self.config.canary.share)
                self._trying, self._tried_since = trying, self.engine.clock()
                log("canary_started", name=trying, version=model.version, share=self.config.canary.share)

    @contextlib.contextmanager
    def _refusing(self, event: str, name: str) -> Iterator[None]:
        """A model that does not load is logged; what served goes on serving."""
        try:
            yield
        except EdgeEmoError as error:
            self._refused = name
            log(event, name=name, reason=str(error), serving=self._serving)

    def _judge(self, models: Path, now: float) -> None:
        fleet = self.engine.fleet
        if fleet.canary is None:
            self._trying = None
            return
        mine, other = fleet.counters[fleet.canary.model.version], fleet.counters[fleet.live.version]
        reason = canary.failure(self.config.canary, mine, other)
        if reason:
            self.engine.end_canary(False, self.config.swap.carry)
            store.drop_canary(models)
            log("canary_back", name=self._trying, reason=reason)
            self._refused, self._trying = self._trying, None
        elif now - self._tried_since >= canary.seconds(self.config.canary.observe):
            if mine.steps < self.config.canary.least_steps:
                return  # nothing to judge by yet
            self.engine.end_canary(True, self.config.swap.carry)
            self._serving = store.promote(models)
            log("canary_promoted", name=self._serving, steps=mine.steps)
            self._trying = None

    # -- figures ---------------------------------------------------------------------------------------------------------
    def status(self, now: float) -> dict[str, Any]:
        engine = self.engine
        passed = max(now - self._began, 1e-9)
        return {
            "uptime_s": round(passed, 1),
            "serving": self._serving or str(engine.model.artifact.path),
            "canary": self._trying,
            "streams": engine.open_streams,
            "max_streams": engine.max_streams,
            "moving": engine.fleet.moving,
            "utilisation": round(self.loop.busy_s / passed, 4),
            "resident_mb": round(resident_mb(), 1),
            "threads": single_core.threads(),
            "audio": engine.counters.document(),
            "models": {version: c.document() for version, c in engine.fleet.counters.items()},
        }

    def _write_status(self, path: Path, now: float) -> None:
        new = path.with_name(f".{path.name}.new")
        try:
            new.write_text(json.dumps(self.status(now)))
            new.replace(path)
        except OSError as error:
            log("status_not_written", file=str(path), reason=error.strerror)
