"""The same random history of calls through the Python engine and the C library: every answer, count and refusal must be the
same to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgeemo_runtime import Engine as PythonEngine
from edgeemo_runtime import OverloadError
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.counters import StreamCounters
from edgeemo_runtime.decision import PRESETS, REASONS, DecisionRules
from edgeemo_runtime.g711 import decode
from edgeemo_runtime.stream import Stream

from tests.c.library import Engine, Library, LibraryError

LAW = {"ulaw": "mulaw", "alaw": "alaw"}
MODEL_COUNTS = ("steps", "listening", "decisions", "changes", "jumps", "low", "errors", "late")


@dataclass
class Now:
    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


@dataclass
class Settings:
    """Both engines' answers and counters."""

    max_streams: int = 5
    rules: DecisionRules = field(default_factory=DecisionRules)
    audio: AudioRules = field(default_factory=AudioRules)
    overload: str = "refuse"
    backlog_hops: int = 4
    spread_phases: bool = False


SETTINGS = {
    "defaults": Settings(),
    "one stream": Settings(max_streams=1, backlog_hops=1),
    "newest audio": Settings(overload="drop-oldest"),
    "newest audio, one hop": Settings(overload="drop-oldest", backlog_hops=1),
    "gaps reset": Settings(audio=AudioRules(gaps="reset"), rules=PRESETS["in-car"]),
    "offsets": Settings(audio=AudioRules(max_offset=1e-4), rules=PRESETS["raw"]),
    "phases": Settings(max_streams=16, spread_phases=True, rules=DecisionRules(alpha=0.9, window_steps=3, disagreement=0.3)),
    "no intensity": Settings(
        rules=DecisionRules(intensity=False, min_confidence=0.2, settle_decisions=1, handoff_decisions=1, decision_s=0.0)
    ),
}


@dataclass
class Call:
    c: int
    python: Stream
    at: int  # the source's count
    sound: np.ndarray
    place: int = 0
    sent: list[tuple[int, np.ndarray]] = field(default_factory=list)


class Pair:
    """A Python and a C engine with the same settings, on the same artifacts."""

    def __init__(self, library: Library, artifacts: list[Path], settings: Settings, sounds: list[np.ndarray]) -> None:
        self.library, self.artifacts, self.sounds, self.now = library, artifacts, sounds, Now()
        self.models = [library.load(path) for path in artifacts]
        values = dict(vars(settings))
        self.python = PythonEngine(artifacts[0], clock=self.now, **values)
        self.c = Engine(library, self.models[0], clock=self.now, **values)
        self.calls: list[Call] = []
        self.answers = self.refused = self.swaps = self.canaries = 0

    def close(self) -> None:
        self.c.destroy()
        for model in self.models:
            self.library.release(model)

    # -- what may happen -------------------------------------------------------------------------------------------------
    def open(self, rng: random.Random) -> None:
        user = rng.choice(("", "7", "caller-1704", "caller-1705", "caller-1788", "x", f"user-{rng.randrange(1000)}-a", "ż٣"))

        def both() -> tuple[int, Stream]:
            return self.c.open(user), self.python.open(user)

        made = self.either(both, lambda: self.python.open(user))
        if made is not None:
            assert made[0] >> 16 == made[1].id
            start = rng.choice((0, 1 << 31, (1 << 32) - 4000, rng.randrange(1 << 32), -5000, (1 << 61) + 7))
            self.calls.append(Call(*made, start, rng.choice(self.sounds), rng.randrange(1000)))

    def close_call(self, rng: random.Random) -> None:
        call = self.calls.pop(rng.randrange(len(self.calls)))
        self.c.close(call.c)
        call.python.close()
        try:
            self.c.waiting(call.c)
        except LibraryError as error:
            assert "CLOSED" in str(error)
        else:
            raise AssertionError("a closed stream answers")

    def push(self, rng: random.Random) -> None:
        call = rng.choice(self.calls)
        size = rng.choice((1, 80, 160, 160, 320, 999, 1280, 1280, 2560, rng.randrange(1, 9000)))
        kind = rng.choice(("s16", "f32", "ulaw", "alaw"))
        what = rng.choice(("next",) * 6 + ("gap", "long gap", "doubled", "late", "anew", "blind", "loud"))
        taken = np.take(call.sound, np.arange(call.place, call.place + size), mode="wrap")
        call.place += size
        samples = self._encoded(taken * (3.0 if what == "loud" else 1.0), kind)
        if what in ("gap", "long gap"):
            call.at += rng.randrange(1, 3000) if what == "gap" else rng.choice((8000, 8001, 7999, 100_000, 1 << 31))
        if what == "anew":
            call.at = rng.choice((0, call.at - 100_000, rng.randrange(1 << 32)))
        at: int | None = call.at
        if what in ("doubled", "late") and call.sent:
            old_at, old = rng.choice(call.sent[-6:])
            at, kind = old_at, "f32"
            samples = old if what == "doubled" else np.roll(old, 7)
        elif what == "blind":
            at = None
        else:
            call.at += len(samples)
            call.sent.append((call.at - len(samples), self._floats(samples, kind)))
        came = rng.choice((None, self.now.time - 0.01))
        wrapped = at % (1 << 32) if at is not None and rng.random() < 0.5 else at
        self.either(
            lambda: self.c.push(call.c, samples, wrapped, came, kind),
            lambda: call.python.push(self._decoded(samples, kind), wrapped, came),
        )

    def step(self, rng: random.Random) -> None:
        self.now.time += rng.choice((0.0, 0.001, 0.05, 0.16))
        room = rng.choice((1, 3, 16, 16))
        slots, since = self.python.ready()
        ready, first = self.c.ready()
        assert ready == len(slots) and (not ready or first == since[0])
        labels = self.python.labels
        mine, theirs = self.c.step(room), list(self.python.step(slots[:room]))
        assert len(mine) == len(theirs)
        for a, b, waited in zip(mine, theirs, [r.stream for r in theirs], strict=True):
            assert a.stream >> 16 == b.stream == waited
            assert (a.start_s, a.end_s, a.model.decode(), labels[a.label] if a.label >= 0 else None) == (
                b.start_s,
                b.end_s,
                b.model,
                b.label,
            )
            assert (REASONS[a.handoff], self._intensity(a.intensity)) == (b.handoff, b.intensity)
            for name in ("probabilities", "smoothed"):
                np.testing.assert_array_equal(np.ctypeslib.as_array(getattr(a, name), (len(labels),)), getattr(b, name))
        self.answers += len(mine)

    def finish(self, rng: random.Random) -> None:
        call = rng.choice(self.calls)
        self.either(lambda: self.c.finish(call.c), call.python.finish)

    def look(self, rng: random.Random) -> None:
        call = rng.choice(self.calls)
        assert self.c.room(call.c) == call.python.room()
        assert self.c.waiting(call.c) == call.python.waiting()
        np.testing.assert_array_equal(self.c.recent(call.c), call.python.recent())

    def swap(self, rng: random.Random) -> None:
        which, carry = rng.randrange(len(self.models)), rng.choice(("replay", "finish"))
        self.c.swap(self.models[which], carry)
        self.python.swap(self.artifacts[which], carry)
        self.swaps += 1

    def canary(self, rng: random.Random) -> None:
        """One begins, or the one that runs ends."""
        if self.python.fleet.canary is None:
            which, share = rng.randrange(len(self.models)), rng.choice((0.03, 0.5, 0.9))
            self.c.start_canary(self.models[which], share)
            self.python.start_canary(self.artifacts[which], share)
            self.canaries += 1
        else:
            promote, carry = rng.random() < 0.5, rng.choice(("replay", "finish"))
            self.c.end_canary(promote, carry)
            self.python.end_canary(promote, carry)

    def counts(self) -> None:
        stats, counters = self.c.stats(), self.python.fleet.counters.values()
        for name in StreamCounters.NAMES:
            assert getattr(stats, name) == getattr(self.python.counters, name), name
        for name in MODEL_COUNTS:
            assert getattr(stats, name) == sum(getattr(c, name) for c in counters), name
        for reason in range(1, len(REASONS)):
            assert getattr(stats, f"handoff{reason}") == sum(c.handoffs[reason] for c in counters)
        assert stats.open_streams == self.python.open_streams
        assert (stats.models, stats.moving) == (len(self.python.fleet.models), self.python.fleet.moving)
        versions = [self.c.model_stats(i).model.decode() for i in range(stats.models)]
        assert sorted(versions) == sorted(m.version for m in self.python.fleet.models)

    # -- helpers ---------------------------------------------------------------------------------------------------------
    def either(self, c: Callable[[], Any], python: Callable[[], Any]) -> Any:
        """The result of ``c``; None where both refuse for want of room. Where ``c`` does both, ``python`` must refuse, too."""
        try:
            given = c()
        except LibraryError as error:
            assert str(error).startswith("OVERLOAD"), error
            try:
                python()
            except OverloadError:
                self.refused += 1
                return None
            raise AssertionError(f"C alone refuses: {error}") from error
        if given is None:
            python()
        return given

    def _intensity(self, number: int) -> str:
        return (self.library.c.edgeemo_model_intensity(self.models[0], number) or b"").decode()

    @staticmethod
    def _encoded(samples: np.ndarray, kind: str) -> np.ndarray:
        if kind == "f32":
            return samples.astype(np.float32)
        whole = np.clip(samples * 32768, -32768, 32767).astype(np.int16)
        return whole if kind == "s16" else (whole >> 8).astype(np.int8).view(np.uint8)  # any bytes are samples

    @staticmethod
    def _decoded(samples: np.ndarray, kind: str) -> np.ndarray:
        return decode(samples.tobytes(), LAW[kind]) if kind in LAW else samples

    @classmethod
    def _floats(cls, samples: np.ndarray, kind: str) -> np.ndarray:
        decoded = cls._decoded(samples, kind)
        return decoded if kind == "f32" else decoded.astype(np.float32) / 32768.0


def run(pair: Pair, seed: int, events: int, swaps: bool) -> None:
    """``events`` random ones, drawn by ``seed``."""
    rng = random.Random(seed)
    kinds = (
        ["push"] * 30
        + ["step"] * 18
        + ["look"] * 4
        + ["finish", "open", "open", "close_call"]
        + ["swap", "canary", "canary"] * swaps
    )
    for _ in range(events):
        kind = rng.choice(kinds)
        if kind in ("push", "look", "finish", "close_call") and not pair.calls:
            kind = "open"
        getattr(pair, kind)(rng)
    pair.counts()
