"""Calls as the front knows them: admitted, fed, told about, ended. Protocols open and feed them; sinks hear of them."""

from __future__ import annotations

import asyncio
import collections
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgeemo_runtime.decision import LISTENING
from edgeemo_runtime.errors import EdgeEmoError, printable
from edgeemo_runtime.ops.lines import log
from edgeemo_runtime.serve.channel import Channel, Step
from edgeemo_runtime.serve.events import Curve, Event, Record, Sink
from edgeemo_runtime.serve.formats import Format
from edgeemo_runtime.serve.pool import NoRoomError, Pool
from edgeemo_runtime.serve.settings import Settings

CALL_ID = re.compile(r"[\w.:@+/=-]{1,128}", re.ASCII)
ENDED_KEPT = 500  # ended calls whose summary may still be asked for
EVENTS_KEPT = 200
SWEEP_S = 1.0
CLOSING_S = 10.0  # that engines get to answer an ended call's last hops
FULL_POLL_S = 0.02


class RefusedError(EdgeEmoError):
    """A call that is not taken. ``code``: full, draining, id, in-use, unexpected."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass
class Leg:
    """One channel of a call: caller or agent."""

    name: str
    record: Record
    channel: Channel | None = None
    ending: bool = False  # no more audio comes
    closed: bool = False  # all of it has been answered
    problem: str = ""
    skipped: int = 0  # samples that the source says it left out
    lost: int = 0  # samples that no engine heard
    curve: Curve = field(default_factory=Curve)
    waiting: collections.deque[bytes] = field(default_factory=collections.deque)  # fed, not yet written

    def document(self) -> dict[str, Any]:
        return self.record.summary() | {"lost_samples": self.lost} | ({"problem": self.problem} if self.problem else {})


class Call:
    """One call with its legs. Made by Calls.open; whoever did ends it with ``finish``."""

    def __init__(self, calls: Calls, call_id: str, protocol: str, peer: str, user: str, form: Format) -> None:
        self._calls, self.id, self.protocol, self.peer, self.user, self.form = calls, call_id, protocol, peer, user, form
        self.legs: dict[str, Leg] = {}
        self.sinks: list[Sink] = []
        self.began, self.began_at = time.monotonic(), time.time()
        self.heard = self.began
        self.finishing: float | None = None
        self.reason = ""
        self.hang_ups: list[Callable[[str], None]] = []  # each ends a connection, saying why
        self.counts: collections.Counter[str] = collections.Counter()
        self.done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def write(self, leg: str, data: bytes, now: float | None = None) -> None:
        """A packet of a leg, at once; what an engine does not read in time is lost, oldest first."""
        channel = self.legs[leg].channel
        self.heard = time.monotonic() if now is None else now
        if channel is not None and not self.legs[leg].ending and data:
            channel.writer.write(data, self.heard)
            self._calls.bytes[self.protocol] += len(data)

    def feed(self, leg: str, data: bytes) -> None:
        """As ``write``, but what the ring has no room for waits for ``drain``."""
        found = self.legs[leg]
        writer = None if found.channel is None else found.channel.writer
        if found.waiting or (writer is not None and not writer.room() >= len(data) <= writer.capacity // 4):
            found.waiting.append(data)
        else:
            self.write(leg, data)

    async def drain(self, leg: str) -> None:
        """Writes what waits as room comes: whoever feeds a leg awaits this before going on, so that a source which sends faster
        than real time is slowed down."""
        found = self.legs[leg]
        while found.waiting:
            data = found.waiting.popleft()
            if found.channel is None:
                continue
            writer = found.channel.writer
            piece = writer.capacity // 4 // self.form.width * self.form.width
            for at in range(0, len(data), piece):
                part = data[at : at + piece]
                while writer.room() < len(part) and not found.closed and not found.ending:
                    self.heard = time.monotonic()
                    await asyncio.sleep(FULL_POLL_S)
                self.write(leg, part)

    def jump(self, leg: str, count: int) -> None:
        """Notes that what is written next is sample ``count`` of the leg."""
        channel = self.legs[leg].channel
        if channel is not None and not channel.writer.mark(count):
            self.counts["jumps_not_noted"] += 1

    def skip(self, leg: str, samples: int) -> None:
        """The source has left out so many samples."""
        found = self.legs[leg]
        if found.channel is not None:
            found.skipped += samples
            self.jump(leg, found.channel.writer.position // self.form.width + found.skipped)

    def finish(self, reason: str, legs: Sequence[str] = ()) -> None:
        """No more audio of ``legs`` (default: of any). ``done`` is resolved when the last hop of all has been answered."""
        for name in legs or list(self.legs):
            leg = self.legs[name]
            if not leg.ending:
                leg.ending = True
                self.reason = reason
                if leg.channel is not None:
                    leg.channel.writer.end()
        if self.finishing is None and all(leg.ending for leg in self.legs.values()):
            self.finishing = time.monotonic()
            self._calls.settle(self)

    def hang_up(self, reason: str) -> None:
        """Ends the connections that bring this call."""
        for end in list(self.hang_ups):
            end(reason)
        self.finish(reason)

    def tell(self, event: Event) -> None:
        for sink in self.sinks:
            sink.tell(event)
        self._calls.tell(event)

    def answered(self, leg: Leg, step: Step) -> None:
        """A step of a leg has been answered."""
        record = leg.record
        listening = step.label == LISTENING
        label = None if listening else record.labels[step.label]
        confidence = 0.0 if listening else step.smoothed[step.label]
        leg.curve.add(step.end_s, step.label, confidence, step.waited_s)
        ended, begun, handoff = record.add(step)
        if any(getattr(s, "steps", False) for s in self.sinks) or self._calls.step_sinks:
            names = record.labels
            self.tell(
                Event(
                    "step", self.id, leg=leg.name, begin_s=step.start_s, end_s=step.end_s, label=label,
                    intensity=step.intensity or None, confidence=None if listening else confidence,
                    late_ms=round(1000 * step.waited_s, 1),
                    probabilities=dict(zip(names, step.probabilities, strict=True)),
                    smoothed=dict(zip(names, step.smoothed, strict=True)), model=step.model,
                )
            )  # fmt: skip
        if ended is not None:
            self.tell(Event("segment", self.id, leg=leg.name, **ended.document(final=True)))
        if begun is not None:
            self.tell(Event("segment", self.id, leg=leg.name, **begun.document(final=False)))
        if handoff:
            self.tell(Event("handoff", self.id, leg=leg.name, reason=handoff, at_s=round(step.end_s, 3), user=self.user or None))

    def closed(self, leg: Leg, reason: str, lost: int) -> None:
        """An engine has answered all of a leg, or will answer no more of it."""
        leg.closed, leg.channel, leg.problem, leg.lost = True, None, reason, lost
        if leg.record.segment is not None:
            self.tell(Event("segment", self.id, leg=leg.name, **leg.record.segment.document(final=True)))
        if reason:
            log("call_failed", call=self.id, leg=leg.name, reason=reason)
        if not leg.ending:
            self.hang_up(reason or "engine")
        self._calls.settle(self)

    def document(self) -> dict[str, Any]:
        return {
            "call": self.id, "protocol": self.protocol, "peer": self.peer, "user": self.user or None,
            "began": round(self.began_at, 3), "seconds": round(time.monotonic() - self.began, 1), "reason": self.reason or None,
            "format": self.form.encoding, "rate": self.form.rate, "counts": dict(self.counts),
            "legs": {name: leg.document() for name, leg in self.legs.items()},
        }  # fmt: skip


class Calls:
    """All calls of this process."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.pool, self.settings = pool, settings
        self.running: dict[str, Call] = {}
        self.ended: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()
        self.recent: collections.deque[Event] = collections.deque(maxlen=EVENTS_KEPT)
        self.told = 0  # events but steps, ever
        self.sinks: list[Sink] = []
        self.step_sinks: list[Sink] = []  # those of ``sinks`` that want each step
        self.expected: dict[str, float] = {}  # announced call ids, and until when
        self.draining = False
        self.opened: collections.Counter[str] = collections.Counter()  # by protocol
        self.bytes: collections.Counter[str] = collections.Counter()
        self.bad: collections.Counter[str] = collections.Counter()  # messages that made no sense
        self.refused: collections.Counter[tuple[str, str]] = collections.Counter()  # by protocol and code
        self.left_out: collections.Counter[str] = collections.Counter()  # events by the sink that was too slow

    # -- admission -------------------------------------------------------------------------------------------------------
    def open(
        self, call_id: str, protocol: str, peer: str, legs: Sequence[str], form: Format, user: str = "",
        sinks: Sequence[Sink] = (),
    ) -> Call:  # fmt: skip
        """A new call, or further legs of one that runs. Raises RefusedError."""
        try:
            call = self._open(call_id, protocol, peer, legs, form, user, sinks)
        except RefusedError as refused:
            self.refused[protocol, refused.code] += 1
            log(
                "call_refused",
                call=printable(call_id[:128]),
                protocol=protocol,
                peer=peer,
                code=refused.code,
                reason=str(refused),
            )
            raise
        self.opened[protocol] += 1
        return call

    def _open(
        self, call_id: str, protocol: str, peer: str, legs: Sequence[str], form: Format, user: str, sinks: Sequence[Sink]
    ) -> Call:  # fmt: skip
        if self.draining:
            raise RefusedError("draining", "this server is being stopped; calls go to another")
        if not CALL_ID.fullmatch(call_id):
            raise RefusedError("id", "a call's id is 1 to 128 letters, digits or one of . : @ + / = _ -")
        running = self.running.get(call_id)
        if running is not None and (running.finishing is not None or set(legs) & set(running.legs) or running.form != form):
            raise RefusedError("in-use", "a call of this id is running")
        if self.pool.headroom < len(legs):
            raise RefusedError("full", f"all {self.pool.capacity} channels are in use")
        call = running or Call(self, call_id, protocol, peer, user, form)
        opened: list[Leg] = []
        for name in legs:
            leg = Leg(name, Record(self.pool.labels))
            try:
                leg.channel = self.pool.open(form, user, partial(call.answered, leg), partial(call.closed, leg))
            except NoRoomError as full:
                for other in opened:
                    if other.channel is not None:
                        self.pool.drop(other.channel)
                raise RefusedError("full", str(full)) from None
            opened.append(leg)
        call.legs |= {leg.name: leg for leg in opened}
        call.sinks += sinks
        self.running[call_id] = call
        call.tell(Event("begin", call_id, protocol=protocol, peer=peer, user=user or None, legs=list(legs)))
        return call

    def expect(self, call_id: str, seconds: float) -> None:
        """A call of this id may come within so many seconds, where only announced ones may."""
        now = time.monotonic()
        self.expected = {k: v for k, v in self.expected.items() if v > now}
        self.expected[call_id] = now + seconds

    def take_expected(self, call_id: str) -> bool:
        return self.expected.pop(call_id, float("-inf")) > time.monotonic()

    def bad_message(self, protocol: str) -> None:
        self.bad[protocol] += 1

    # -- events ----------------------------------------------------------------------------------------------------------
    def subscribe(self, sink: Sink) -> None:
        """From now on ``sink`` is told of every call; of each step, too, where it wants them (its ``steps``)."""
        self.sinks.append(sink)
        if getattr(sink, "steps", False):
            self.step_sinks.append(sink)

    def unsubscribe(self, sink: Sink) -> None:
        for sinks in (self.sinks, self.step_sinks):
            if sink in sinks:
                sinks.remove(sink)

    def tell(self, event: Event) -> None:
        if event.type != "step":
            self.recent.append(event)
            self.told += 1
        for sink in self.step_sinks if event.type == "step" else self.sinks:
            sink.tell(event)

    # -- the end ---------------------------------------------------------------------------------------------------------
    def settle(self, call: Call) -> None:
        """Ends a call whose legs have all been answered."""
        if call.finishing is None or not all(leg.closed for leg in call.legs.values()) or call.done.done():
            return
        self.running.pop(call.id, None)
        document = call.document()
        self.ended[call.id] = document
        self.ended.move_to_end(call.id)
        while len(self.ended) > ENDED_KEPT:
            self.ended.popitem(last=False)
        call.tell(Event("end", call.id, **{k: v for k, v in document.items() if k != "call"}))
        call.done.set_result(document)

    async def sweep(self) -> None:
        """Ends calls that are silent or too long; drops what engines do not finish. Runs until cancelled."""
        limits = self.settings.limits
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for call in list(self.running.values()):
                if call.finishing is not None:
                    if now - call.finishing > CLOSING_S:
                        self._give_up(call)
                elif now - call.heard > limits.idle_s:
                    call.hang_up("idle")
                elif now - call.began > limits.max_call_s:
                    call.hang_up("too long")

    def _give_up(self, call: Call) -> None:
        for leg in call.legs.values():
            if leg.channel is not None:
                self.pool.drop(leg.channel)
                call.closed(leg, "not answered in time", 0)

    async def drain(self, seconds: float) -> None:
        """Takes no new calls and waits until the running ones have ended, or for so long."""
        self.draining = True
        ends = time.monotonic() + seconds
        while self.running and time.monotonic() < ends:
            await asyncio.sleep(0.05)
        for call in list(self.running.values()):
            call.hang_up("server is stopped")
        ends = time.monotonic() + CLOSING_S / 5
        while self.running and time.monotonic() < ends:
            await asyncio.sleep(0.02)
