"""A call's clock: RTP timestamps that wrap, begin anywhere and begin anew, and packets that are lost, swapped, late or
doubled."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.counters import StreamCounters
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.ring import AudioRings
from edgeemo_runtime.source_clock import WRAP, Placement, SourceClock
from hypothesis import given, settings
from hypothesis import strategies as st

HOP, PACKET, RATE = 1280, 160, 8000


@dataclass
class Call:
    """One call's ring and clock, stepped as soon as a step is there, as an engine does; and what it heard."""

    rules: AudioRules = field(default_factory=AudioRules)
    heard: list[tuple[int, np.ndarray, bool]] = field(default_factory=list)  # source's count, samples, begun anew

    def __post_init__(self) -> None:
        self.counters = StreamCounters()
        self.rings = AudioRings(1, HOP, 5 * HOP, 4)
        self.clock = SourceClock(1, self.rings, self.rules, RATE, self.counters)
        self.pushed = 0

    def push(self, samples: np.ndarray, at: object) -> None:
        self.pushed += len(samples)
        placement = self.clock.place(0, samples, at)
        assert placement.length <= self.rings.room(0)
        self.clock.push(0, placement, at)
        self.step()

    def step(self) -> None:
        out = np.empty((1, HOP), np.float32)
        while len(self.rings.ready()):
            anew = bool(self.clock.breaks) and self.clock.reached(0)
            start = int(self.clock.begun_at[0] + self.rings.taken_samples[0])
            self.rings.take(np.array([0]), out)
            self.heard.append((start, out[0].copy(), anew))

    def finish(self) -> None:
        rest = -self.rings.waiting(0) % HOP
        self.clock.push(0, Placement(np.zeros(rest, np.float32)), None)
        self.step()

    @property
    def audio(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *(samples for _, samples, _ in self.heard)])


def numbered(first: int, count: int) -> np.ndarray:
    """Samples that say which they are."""
    return np.arange(first + 1, first + 1 + count, dtype=np.float32)


def packets(count: int, start: int, first: int = 0) -> list[tuple[int, np.ndarray]]:
    return [((start + i * PACKET) % WRAP, numbered(first + i * PACKET, PACKET)) for i in range(count)]


@dataclass(frozen=True)
class History:
    start: int
    events: list[tuple[str, int]]


HISTORIES = st.builds(
    History,
    st.one_of(st.integers(0, WRAP - 1), st.integers(WRAP - 20 * HOP, WRAP - 1), st.just(0)),
    st.lists(
        st.one_of(
            st.tuples(st.just("packet"), st.integers(1, 400)),
            st.tuples(st.just("packet"), st.just(PACKET)),
            st.tuples(st.just("loss"), st.integers(1, 4000)),
            st.tuples(st.just("pause"), st.integers(4001, 10**7)),
            st.tuples(st.just("double"), st.integers(1, 3)),
            st.tuples(st.just("swap"), st.just(PACKET)),
            st.tuples(st.just("restart"), st.integers(30 * RATE, WRAP - 30 * RATE)),
        ),
        min_size=1,
        max_size=60,
    ),
)


@settings(max_examples=400)
@given(HISTORIES)
def test_any_history_is_heard_where_it_belongs(history: History) -> None:
    """Against a plain table: sample by number, by the source that sent it. What is heard is that sample or silence, no sample
    twice, none out of order; and of all that was pushed, nothing is missing but what is counted."""
    call = Call()
    table: dict[int, tuple[int, int]] = {}  # number of a sample: (source, its count)
    sent: list[tuple[int, np.ndarray]] = []  # of this source
    source, at, number = 0, history.start, 0

    def send(count: int) -> tuple[int, np.ndarray]:
        nonlocal at, number
        samples = numbered(number, count)
        table.update({number + 1 + i: (source, (at + i) % WRAP) for i in range(count)})
        number += count
        packet = at % WRAP, samples
        at += count
        sent.append(packet)
        return packet

    for what, size in history.events:
        if what == "packet":
            stamp, samples = send(size)
            call.push(samples, stamp)
        elif what in ("loss", "pause"):
            at += size
            sent = [] if what == "pause" else sent  # two packets in a row of before one would be another source's
        elif what == "double" and len(sent) >= size:
            stamp, samples = sent[-size]
            call.push(samples, np.uint32(stamp))
        elif what == "swap":
            first, second = send(size), send(size)
            call.push(second[1], second[0])
            call.push(first[1], first[0])
        elif what == "restart":
            source, at, sent = source + 1, at + size, []
    call.finish()
    numbers = call.audio[call.audio > 0].astype(int)
    assert len(set(numbers)) == len(numbers)
    assert (np.diff(numbers) > 0).all()
    for start, samples, _ in call.heard:
        for i in np.flatnonzero(samples):
            assert table[int(samples[i])][1] == (start + i) % WRAP
    c = call.counters
    left = call.pushed - c.duplicate_samples
    assert left - c.late_samples - c.dropped_samples <= len(numbers) <= left
    if not any(what in ("double", "swap") for what, _ in history.events):
        assert c.duplicate_samples == c.late_samples == 0


@pytest.mark.parametrize("kind", [int, np.uint32, np.int64, np.uint64])
def test_the_wrap_is_no_gap(kind: type) -> None:
    call = Call()
    for at, samples in packets(200, WRAP - 8000):
        call.push(samples, kind(at))
    np.testing.assert_array_equal(call.audio, numbered(0, 25 * HOP))
    assert call.counters.document() == StreamCounters().document()


@pytest.mark.parametrize("behind", [17_000, 10**6, 2**31 - 1, 2**31, 2**31 + 5])
def test_a_source_that_begins_anew_is_heard_at_once(behind: int) -> None:
    call = Call()
    for at, samples in packets(44, 3_000_000):
        call.push(samples, at)
    for at, samples in packets(80, (3_000_000 + 44 * PACKET - behind) % WRAP, 44 * PACKET):
        call.push(samples, at)
    call.finish()
    numbers = call.audio[call.audio > 0].astype(int)
    np.testing.assert_array_equal(numbers, np.arange(1, 124 * PACKET + 1))
    begun = [(i, start) for i, (start, _, anew) in enumerate(call.heard) if anew]
    assert [i for i, _ in begun] == [6]  # five whole steps and a padded one before it
    assert begun[0][1] % WRAP == (3_000_000 + 44 * PACKET - behind) % WRAP
    assert call.counters.restarts + call.counters.resets == 1


@pytest.mark.parametrize("behind", [PACKET, 3 * PACKET, 8000, 12_000])
def test_a_source_that_begins_anew_just_below_is_heard_from_its_second_packet_on(behind: int) -> None:
    """It could be late packets; but two in a row that are neither what was heard there nor missing there are none."""
    call = Call()
    for at, samples in packets(100, 50_000):
        call.push(samples, at)
    for at, samples in packets(50, 50_000 + 100 * PACKET - behind, 100 * PACKET):
        call.push(samples, at)
    call.finish()
    numbers = set(call.audio[call.audio > 0].astype(int))
    missing = set(range(1, 150 * PACKET + 1)) - numbers
    assert len(missing) <= (PACKET if behind == PACKET else 0)
    assert call.counters.restarts == (behind != PACKET)


def test_swapped_packets_are_put_in_order_while_they_wait() -> None:
    call = Call()
    order = packets(40, 7)
    for i in range(4, 36, 8):
        order[i], order[i + 1] = order[i + 1], order[i]
    for at, samples in order:
        call.push(samples, at)
    np.testing.assert_array_equal(call.audio, numbered(0, 5 * HOP))
    assert call.counters.late_samples == 4 * PACKET
    assert call.counters.resets == call.counters.duplicate_samples == 0


@pytest.mark.parametrize("missing", [1, 6400, 8000, 8001, 10**6, 2**31 - 1])
def test_after_a_pause_of_any_length_all_is_heard(missing: int) -> None:
    """Discontinuous transmission and comfort noise: nothing is sent while nobody speaks."""
    call = Call()
    for at, samples in packets(60, 1000):
        call.push(samples, at)
    for at, samples in packets(60, 1000 + 60 * PACKET + missing, 60 * PACKET):
        call.push(samples, at)
    call.finish()
    np.testing.assert_array_equal(call.audio[call.audio > 0], numbered(0, 120 * PACKET))
    c = call.counters
    assert c.gaps == 1
    assert c.filled_samples + c.skipped_samples >= (missing if missing <= 8000 else 0)
    assert c.resets == (missing > 8000)
    for start, samples, _ in call.heard:
        for i in np.flatnonzero(samples):
            offset = 1000 + int(samples[i]) - 1 + (missing if samples[i] > 60 * PACKET else 0)
            assert (start + i) % WRAP == offset % WRAP


def test_one_packet_of_long_ago_is_no_other_source() -> None:
    call = Call()
    order = packets(100, 9)
    for at, samples in [*order[:90], order[2], *order[90:]]:
        call.push(samples, at)
    call.finish()
    np.testing.assert_array_equal(call.audio[call.audio > 0], numbered(0, 100 * PACKET))
    assert (call.counters.restarts, call.counters.late_samples) == (0, PACKET)


def test_a_source_that_begins_anew_all_the_time_fills_no_ring() -> None:
    """Each new beginning costs at most what was pushed, not a whole step of silence."""
    call, rng = Call(), np.random.default_rng(0)
    for i in range(400):
        call.push(numbered(i * PACKET, PACKET), int(rng.integers(0, WRAP)))
    assert len(call.heard) <= 400 * PACKET // HOP * 1.25 + 4
    assert call.counters.dropped_samples > 0


@pytest.mark.parametrize("at", [0.5, float("nan"), "7", [1], None, 1 + 2j, b"1"])
def test_what_is_no_whole_number_is_named(at: object) -> None:
    with pytest.raises(EdgeEmoError, match="whole number of samples"):
        Call().clock.push(0, Call().clock.place(0, numbered(0, 8), at if at is not None else object()), at)


@pytest.mark.parametrize("at", [2**63, -(2**63) - 1, 2**200, -1, np.int8(-3), True])
def test_any_integer_is_a_count(at: object) -> None:
    call = Call()
    call.push(numbered(0, HOP), at)
    call.push(numbered(HOP, HOP), int(at) + HOP)  # type: ignore[call-overload]
    np.testing.assert_array_equal(call.audio, numbered(0, 2 * HOP))
    assert call.counters.gaps == call.counters.restarts == 0


def test_a_call_may_begin_without_timestamps() -> None:
    call = Call()
    call.clock.push(0, Placement(numbered(0, 2000)), None)
    call.step()
    for at, samples in packets(20, 10**9, 2000):
        call.push(samples, at)
    call.finish()
    assert call.counters.gaps == call.counters.resets == 0
    np.testing.assert_array_equal(call.audio[call.audio > 0], numbered(0, 2000 + 20 * PACKET))
