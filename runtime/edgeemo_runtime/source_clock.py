"""Places audio by its source's own count of samples, as RTP's timestamps are: 32 bits that wrap, begin anywhere, and begin
anew when a call is re-invited or its source changes.

Per slot it knows at which count the ring begins, so that a step's time is the source's. What was sent twice is left out, what
comes late is put where it belongs while that is still waiting, what is missing becomes silence or a break. All of it is counted,
and no source is ever taken for late for good.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace

import numpy as np

from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.counters import StreamCounters
from edgeemo_runtime.errors import EdgeEmoError, printable
from edgeemo_runtime.memory import aligned_zeros
from edgeemo_runtime.ring import AudioRings

WRAP = 1 << 32  # of RTP's timestamps
CREDIT_STEPS, CREDIT_SHARE = (
    4,
    4,
)  # steps of silence that new beginnings may cost at once; and what part of the audio, in the long run
MAX_COUNT = 1 << 62  # what a source may count to before only its last 32 bits are looked at


@dataclass(frozen=True)
class Break:
    """From ``position`` of the ring on, the source's count is ``position + origin``; with ``anew`` the call begins anew there."""

    position: int
    origin: int
    anew: bool


@dataclass
class Placement:
    """How a packet goes into the ring: ``silence`` samples, then ``samples``; with a break between them where there is one."""

    samples: np.ndarray
    silence: int = 0
    at_break: Break | None = None
    rewind: int | None = None  # the position from which on what is in the ring is dropped
    counted: dict[str, int] = field(default_factory=dict)  # by the names of StreamCounters

    @property
    def length(self) -> int:
        return self.silence + len(self.samples)

    def cut(self, samples: int) -> None:
        """Leaves out the first ``samples`` of what was to go in."""
        self.samples = self.samples[samples:]
        if self.at_break is not None:
            self.at_break = replace(self.at_break, origin=self.at_break.origin + samples)


def as_count(at: object) -> int:
    """A timestamp as an int. Raises EdgeEmoError for what is no whole number."""
    try:
        count = operator.index(at)  # type: ignore[arg-type]
    except TypeError:
        text = printable(repr(at)[:60])
        raise EdgeEmoError(f"push(at=) takes a whole number of samples, as RTP's timestamps are, not {text}") from None
    return count if abs(count) < MAX_COUNT else count % WRAP


class SourceClock:
    def __init__(self, slots: int, rings: AudioRings, rules: AudioRules, rate: int, counters: StreamCounters) -> None:
        self._rings, self._rules, self._counters = rings, rules, counters
        self._max_fill = int(rules.max_fill_s * rate)
        self.begun_at = aligned_zeros((slots,), np.int64)  # the source's count at the ring's position 0, for the next step
        self._origin = np.zeros(slots, dtype=np.int64)  # the same for what is pushed next: beyond every break
        self._since = np.zeros(slots, dtype=np.int64)  # the position from which this source has been heard without a break
        self._known = np.zeros(slots, dtype=bool)
        self._credit = np.full(slots, CREDIT_STEPS * rings.step, dtype=np.int64)  # silence that new beginnings may cost
        self.breaks: dict[int, list[Break]] = {}  # by slot, that no step has reached yet
        self._strange: dict[int, tuple[int, np.ndarray]] = {}  # by slot: where a late packet that fits nowhere ends, and it

    def clear(self, slot: int) -> None:
        self.begun_at[slot] = self._origin[slot] = self._since[slot] = 0
        self._credit[slot] = CREDIT_STEPS * self._rings.step
        self._known[slot] = False
        self.breaks.pop(slot, None)
        self._strange.pop(slot, None)

    def lead_in(self, slot: int, samples: int) -> None:
        """The ring begins with so much silence before the call's first sample."""
        self.begun_at[slot] = self._origin[slot] = -samples

    def place(self, slot: int, samples: np.ndarray, at: object) -> Placement:
        """Placement of ``samples``, the first being number ``at`` of the source. Changes nothing but late audio's own place."""
        count = as_count(at)
        if not self._known[slot]:
            return Placement(samples)
        expected = int(self._origin[slot]) + self._rings.written(slot)
        ahead = (count - expected + WRAP // 2) % WRAP - WRAP // 2
        if ahead == 0:
            self._strange.pop(slot, None)
            return Placement(samples)
        if ahead > 0:
            self._strange.pop(slot, None)
            return self._after_gap(slot, samples, count, ahead)
        return self._late(slot, samples, count, -ahead)

    def push(self, slot: int, placement: Placement, at: object | None) -> None:
        """Puts what ``place`` gave into the ring, which has the room."""
        rings = self._rings
        if placement.rewind is not None:
            rings.rewind(slot, placement.rewind)
            if slot in self.breaks and self.breaks[slot][-1].position == placement.rewind:
                self.breaks[slot].pop()
        if placement.silence:
            rings.push(slot, np.zeros(placement.silence, dtype=np.float32))
        self._credit[slot] = min(CREDIT_STEPS * rings.step, self._credit[slot] + len(placement.samples) // CREDIT_SHARE)
        if (made := placement.at_break) is not None:
            self._credit[slot] -= placement.silence
            self.breaks.setdefault(slot, []).append(made)
            self._origin[slot], self._since[slot] = made.origin, made.position
            self._strange.pop(slot, None)
        elif at is not None and not self._known[slot]:
            self.begun_at[slot] = self._origin[slot] = as_count(at) - rings.written(slot)
            self._known[slot] = True
        rings.push(slot, placement.samples)
        self._counters.add(placement.counted)

    def skip(self, slot: int, samples: int) -> None:
        """So many samples were left out before what is pushed next."""
        self._origin[slot] += samples
        if slot not in self.breaks:
            self.begun_at[slot] += samples

    def reached(self, slot: int) -> bool:
        """Passes the breaks that the next step of ``slot`` begins at or behind. True if the call begins anew with one."""
        anew = False
        waiting = self.breaks[slot]
        while waiting and waiting[0].position <= self._rings.taken_samples[slot]:
            made = waiting.pop(0)
            self.begun_at[slot] = made.origin
            anew = anew or made.anew
        if not waiting:
            del self.breaks[slot]
        return anew

    def _after_gap(self, slot: int, samples: np.ndarray, count: int, missing: int) -> Placement:
        if self._rules.gaps != "fill" or missing > self._max_fill:
            return self._anew(slot, samples, count, {"gaps": 1, "resets": 1})
        room = self._rings.room(slot) - len(samples)
        if missing <= room:
            return Placement(samples, missing, counted={"gaps": 1, "filled_samples": missing})
        # As much silence as there is room for, up to the end of a step; the clock jumps over the rest.
        rest = self._rest_of_step(slot)
        silence = rest + max(0, room - rest) // self._rings.step * self._rings.step
        position = self._rings.written(slot) + silence
        counted = {"gaps": 1, "filled_samples": silence, "skipped_samples": max(0, missing - silence)}
        return Placement(samples, silence, Break(position, count - position, False), None, counted)

    def _late(self, slot: int, samples: np.ndarray, count: int, behind: int) -> Placement:
        """Audio of before what was heard last: sent twice, late, or of a source that counts anew."""
        old, new = samples[:behind], samples[behind:]
        position = self._rings.written(slot) - behind
        heard = self._rings.read(slot, position, len(old)) if position >= self._since[slot] else None
        if heard is not None and np.array_equal(heard, old):
            return Placement(new, counted={"duplicate_samples": len(old)})
        if heard is not None and not heard.any():  # its place was filled with silence
            self._rings.patch(slot, position, old)
            return Placement(new, counted={"late_samples": len(old)})
        ends, before = self._strange.pop(slot, (None, None))
        if before is not None and ends == count % WRAP:
            # Two packets in a row that are neither what was heard there nor missing there: another source.
            return self._anew(slot, np.concatenate([before, samples]), count - len(before), {"restarts": 1})
        self._strange[slot] = (count + len(samples)) % WRAP, samples.copy()
        return Placement(new, counted={"late_samples": len(old)})

    def _anew(self, slot: int, samples: np.ndarray, count: int, counted: dict[str, int]) -> Placement:
        """The call begins anew with ``samples``, at the next whole step, up to which there is silence; what waits before it is
        still answered. A source that does so again and again would have more steps answered than it sends: beyond its credit
        what it began of a step is dropped instead."""
        written = self._rings.written(slot)
        silence = self._rest_of_step(slot)
        if silence <= self._credit[slot]:
            position = written + silence
            return Placement(samples, silence, Break(position, count - position, True), None, counted)
        position = written - written % self._rings.step
        counted = {**counted, "dropped_samples": written - position}
        return Placement(samples, 0, Break(position, count - position, True), position, counted)

    def _rest_of_step(self, slot: int) -> int:
        return -self._rings.written(slot) % self._rings.step
