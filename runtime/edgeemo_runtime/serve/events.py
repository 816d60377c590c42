"""Events of a call: JSON, version 1. docs/live-calls.md has each. Additions keep the version."""

from __future__ import annotations

import array
import functools
import json
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeemo_runtime.decision import LISTENING, REASONS
from edgeemo_runtime.serve.channel import Step

VERSION = 1


class Event:
    """One event; ``text`` is made once, however many read it."""

    def __init__(self, type_: str, call: str, **what: Any) -> None:
        self.type, self.call = type_, call
        self.data = {"v": VERSION, "type": type_, "call": call, "time": round(time.time(), 3), **what}

    @functools.cached_property
    def text(self) -> str:
        return json.dumps(self.data, separators=(",", ":"))


class Curve:
    """A channel's last steps in memory that is there from the start: end_s, label index, confidence, late_ms."""

    KEPT = 3750  # steps: 10 minutes
    _WIDTH = 4

    def __init__(self) -> None:
        self._numbers = array.array("f", bytes(4 * self._WIDTH * self.KEPT))
        self.steps = 0

    def add(self, end_s: float, label: int, confidence: float, waited_s: float) -> None:
        at = self.steps % self.KEPT * self._WIDTH
        self._numbers[at : at + self._WIDTH] = array.array("f", (end_s, label, confidence, 1000 * waited_s))
        self.steps += 1

    def last(self, count: int) -> list[list[float]]:
        """The last ``count`` steps, as far as they are kept, oldest first; numbers as far as anybody can see them."""
        found = []
        for step in range(self.steps - min(count, self.steps, self.KEPT), self.steps):
            at = step % self.KEPT * self._WIDTH
            end_s, label, confidence, late_ms = self._numbers[at : at + self._WIDTH]
            found.append([round(end_s, 2), int(label), round(confidence, 3), round(late_ms, 1)])
        return found


class Sink(Protocol):
    """Whoever wants events: a client's connection, subscribers, a broker, a webhook. ``tell`` never waits."""

    def tell(self, event: Event) -> None: ...


@dataclass
class Segment:
    """A stretch of one label."""

    label: str
    intensity: str
    begin_s: float
    end_s: float
    model: str
    steps: int = 0
    confidence_sum: float = 0.0

    def add(self, end_s: float, confidence: float, model: str) -> None:
        self.end_s, self.model = end_s, model
        self.steps += 1
        self.confidence_sum += confidence

    def document(self, final: bool) -> dict[str, Any]:
        """``confidence``: the mean of its steps' smoothed probability of the label."""
        return {
            "label": self.label, "intensity": self.intensity or None, "confidence": round(self.confidence_sum / self.steps, 4),
            "begin_s": round(self.begin_s, 3), "end_s": round(self.end_s, 3), "final": final, "model": self.model,
        }  # fmt: skip


@dataclass
class Record:
    """Summary of a channel's answers so far."""

    labels: tuple[str, ...]
    segment: Segment | None = None
    segments: int = 0
    steps: int = 0
    listened: int = 0  # of these, those before there was a label
    seconds: float = 0.0
    handoff: str = ""
    model: str = ""
    shares: dict[str, int] = field(default_factory=dict)  # steps by label
    sums: list[float] = field(default_factory=list)  # of the probabilities

    def add(self, step: Step) -> tuple[Segment | None, Segment | None, str]:
        """The segment that has ended with this step, the one that has begun, and why the call should go to a person now."""
        self.steps += 1
        self.seconds, self.model = step.end_s, step.model
        if step.label == LISTENING:  # before the first decision
            self.listened += 1
            return self._end_segment(), None, ""
        label = self.labels[step.label]
        self.shares[label] = self.shares.get(label, 0) + 1
        self.sums = [a + b for a, b in zip(self.sums, step.probabilities, strict=True)] if self.sums else list(step.probabilities)
        before, begun = self.segment, None
        if before is not None and (before.label, before.intensity) == (label, step.intensity):
            before.add(step.end_s, step.smoothed[step.label], step.model)
            before = None
        else:
            begin = before.end_s if before is not None else step.start_s
            self.segment = begun = Segment(label, step.intensity, begin, step.end_s, step.model)
            begun.add(step.end_s, step.smoothed[step.label], step.model)
            self.segments += 1
        reason = REASONS[step.handoff]
        if reason and self.handoff:  # once in a call, also after it has moved to another engine
            reason = ""
        self.handoff = self.handoff or reason
        return before, begun, reason

    def _end_segment(self) -> Segment | None:
        """Ends the segment of a call that is listened to anew, as after a long pause."""
        ended, self.segment = self.segment, None
        return ended

    def summary(self) -> dict[str, Any]:
        """``label`` is the one with the largest mean probability over all steps that had a label."""
        labelled = self.steps - self.listened
        mean = [s / labelled for s in self.sums] if labelled else []
        best = max(range(len(mean)), key=mean.__getitem__, default=None)
        return {
            "seconds": round(self.seconds, 3), "steps": self.steps, "segments": self.segments, "listening": self.listened,
            "label": None if best is None else self.labels[best],
            "confidence": None if best is None else round(mean[best], 4),
            "mean": {n: round(p, 4) for n, p in zip(self.labels, mean, strict=False)},
            "shares": {n: round(c / labelled, 4) for n, c in self.shares.items()},
            "handoff": self.handoff or None, "model": self.model,
        }  # fmt: skip
