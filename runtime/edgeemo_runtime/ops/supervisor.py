"""Supervises a live engine between steps: follows model links, judges the canary, writes status and metrics."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeemo_runtime import process
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.ops import canary, store
from edgeemo_runtime.ops.arrival import Arrival
from edgeemo_runtime.ops.config import Config
from edgeemo_runtime.ops.lines import log
from edgeemo_runtime.ops.live import LiveLoop
from edgeemo_runtime.ops.metrics import MetricsServer
from edgeemo_runtime.trust import ANYONE, Trust

STATUS_S = 1.0
RETRY_S = 5.0  # after a refusal, before SIGHUP has the same models tried again
TROUBLE_S, TROUBLE_SHARE = 10.0, 0.05  # how often, and from what share of the audio (of calls, for new beginnings) on, it is told
TROUBLE_SAMPLES = ("filled_samples", "skipped_samples", "duplicate_samples", "late_samples", "dropped_samples")


def resident_mb() -> float:
    """Resident memory of this process, MB; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return 0.0
    return pages * 4096 / 1e6


class Supervisor:
    """Looks after an engine. ``models`` is the folder that edgeemo-run install writes, if the engine runs from one."""

    def __init__(self, engine: Engine, loop: LiveLoop, config: Config, models: Path | None, trust: Trust = ANYONE) -> None:
        self.engine, self.loop, self.config, self.models, self.trust = engine, loop, config, models, trust
        self._serving = store.linked(models, store.CURRENT) if models else None
        self._trying: str | None = None  # the canary's name
        self._tried_since = 0.0
        self._arriving: tuple[str, str, Arrival] | None = None  # role, name
        self._refused: set[str] = set()  # models that do not load are not tried again until the links change
        self._refused_at = float("-inf")
        self._links: tuple[str | None, str | None] = (None, None)
        self._looked = self._wrote = self._told = float("-inf")
        self._asked = self._ended = False
        self._unwritten = ""  # why the status could not be written last
        self._began = engine.clock()
        self._audio = engine.counters.document()
        m = config.metrics
        self._server = MetricsServer(engine, m.host, m.port, read_token(m.token_file)) if m.port else None

    def install_signal_handlers(self, end: bool) -> None:
        """SIGHUP looks at the links at once; with ``end`` SIGTERM ends the loop between two steps."""
        signal.signal(signal.SIGHUP, lambda *_: setattr(self, "_asked", True))
        if end:
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_ended", True))

    def poll(self) -> bool:
        """Does what is due between two steps, in a few milliseconds at most. False once the process is to end."""
        now = self.engine.clock()
        if self.models and (self._asked or (self.config.swap.watch_s and now - self._looked >= self.config.swap.watch_s)):
            if self._asked and now - self._refused_at >= RETRY_S:
                self._refused.clear()
            self._looked, self._asked = now, False
            self._look(self.models)
        if self._arriving is not None and self.models:
            self._advance(self.models, *self._arriving)
        if self._trying is not None and self.models:
            self._judge(self.models, now)
        if now - self._told >= TROUBLE_S:
            self._tell_trouble()
            self._told = now
        if self.config.metrics.status and now - self._wrote >= STATUS_S:
            self._write_status(Path(self.config.metrics.status), now)
            self._wrote = now
        if self._server is not None:
            self._server.poll()
        return not self._ended

    def close(self) -> None:
        if self._arriving is not None:
            self._arriving[2].close()
        if self._server is not None:
            self._server.close()

    # -- models ----------------------------------------------------------------------------------------------------------
    def _look(self, models: Path) -> None:
        """Compares the links with what serves: begins to bring in what is new."""
        links = store.linked(models, store.CURRENT), store.linked(models, store.CANARY)
        if links != self._links:
            self._links = links
            self._refused.clear()
        wanted, trying = links
        if wanted not in (None, self._serving) and wanted not in self._refused:
            self._bring(store.CURRENT, str(wanted), models)
        elif trying is not None and self._trying is None and trying != self._serving and trying not in self._refused:
            self._bring(store.CANARY, trying, models)
        elif self._arriving is not None:
            self._give_up()

    def _bring(self, role: str, name: str, models: Path) -> None:
        if self._arriving is not None:
            if self._arriving[:2] == (role, name):
                return
            self._give_up()
        self._arriving = role, name, Arrival(models / name, self.trust)

    def _give_up(self) -> None:
        assert self._arriving is not None
        self._arriving[2].close()
        self._arriving = None

    def _advance(self, models: Path, role: str, name: str, arrival: Arrival) -> None:
        """A model that does not load is logged; what served goes on serving."""
        try:
            artifact = arrival.advance()
            if artifact is None:
                return
            self._arriving = None
            began = self.engine.clock()
            took = {"took_s": round(time.monotonic() - arrival.began, 4)}
            if role == store.CURRENT:
                model = self.engine.swap(artifact, self.config.swap.carry)
                self._serving, self._trying = name, None
                took["held_s"] = round(self.engine.clock() - began, 4)
                log("model_swapped", name=name, version=model.version, **took)
            else:
                model = self.engine.start_canary(artifact, self.config.canary.share)
                self._trying, self._tried_since = name, self.engine.clock()
                log("canary_started", name=name, version=model.version, share=self.config.canary.share, **took)
        except Exception as error:
            arrival.close()
            self._arriving = None
            self._refused.add(name)
            self._refused_at = self.engine.clock()
            reason = str(error) if isinstance(error, EdgeEmoError) else f"{type(error).__name__}: {first_line(error)}"
            log("model_refused" if role == store.CURRENT else "canary_refused", name=name, reason=reason, serving=self._serving)

    def _judge(self, models: Path, now: float) -> None:
        fleet = self.engine.fleet
        if fleet.canary is None:
            self._trying = None
            return
        mine, other = fleet.counters[fleet.canary.model.version], fleet.counters[fleet.live.version]
        reason = canary.failure(self.config.canary, mine, other)
        if reason:
            self.engine.end_canary(False, self.config.swap.carry)
            log("canary_back", name=self._trying, reason=reason)
            self._refused.add(str(self._trying))
            self._trying = None
            with self._storing("canary_not_removed"):
                store.drop_canary(models)
        elif now - self._tried_since >= canary.seconds(self.config.canary.observe):
            if mine.steps < self.config.canary.min_steps:
                return  # nothing to judge by yet
            self.engine.end_canary(True, self.config.swap.carry)
            self._serving, self._trying = self._trying, None
            log("canary_promoted", name=self._serving, steps=mine.steps)
            with self._storing("canary_not_promoted"):
                store.promote(models)

    @contextlib.contextmanager
    def _storing(self, event: str) -> Iterator[None]:
        """The folder of models may be read-only or full: the calls go on all the same."""
        try:
            yield
        except EdgeEmoError as error:
            log(event, reason=str(error))

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
            "threads": process.threads(),
            "audio": engine.counters.document(),
            "models": {version: c.document() for version, c in engine.fleet.counters.items()},
        }

    def _write_status(self, path: Path, now: float) -> None:
        try:
            handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with open(handle, "w") as file:
                    json.dump(self.status(now), file)
                    os.fchmod(file.fileno(), 0o644)
                os.replace(new, path)
            except BaseException:
                os.unlink(new)
                raise
            reason = ""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
        if reason and reason != self._unwritten:
            log("status_not_written", file=str(path), reason=reason)
        self._unwritten = reason

    def _tell_trouble(self) -> None:
        """One line where much of what calls brought was dropped, filled or begun anew since the last look."""
        before, self._audio = self._audio, self.engine.counters.document()
        risen = {name: count - before[name] for name, count in self._audio.items() if count > before[name]}
        rate, streams = self.engine.sample_rate, max(1, self.engine.open_streams)
        samples = (
            sum(risen.get(name, 0) for name in TROUBLE_SAMPLES) + risen.get("dropped_hops", 0) * self.engine.samples_per_step
        )
        begun = risen.get("resets", 0) + risen.get("restarts", 0)
        if samples > TROUBLE_SHARE * TROUBLE_S * rate * streams or begun > TROUBLE_SHARE * streams:
            log("audio_trouble", seconds=TROUBLE_S, streams=self.engine.open_streams, **risen)


def read_token(name: str) -> str:
    """The first line of the file; nothing where no file is named. Raises EdgeEmoError if it cannot be read, or is empty."""
    if not name:
        return ""
    try:
        token = Path(name).read_text().partition("\n")[0].strip()
    except (OSError, ValueError) as error:
        raise EdgeEmoError(f"{name}: no token can be read ({getattr(error, 'strerror', None) or first_line(error)})") from error
    if not token:
        raise EdgeEmoError(f"{name}: is empty; its first line is the token")
    return token
