"""Audio through shared memory against a plain list of bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from edgeemo_runtime.serve.formats import Format
from edgeemo_runtime.serve.rings import MARKS, AudioReader, AudioWriter, SlotReader, SlotWriter, make_region, ring_bytes
from hypothesis import given
from hypothesis import strategies as st

FORMS = (Format("mulaw", 8000), Format("s16", 8000), Format("s16", 48000), Format("f32", 44100))


@pytest.fixture(scope="module")
def region() -> Iterator[tuple[AudioWriter, AudioReader]]:
    handle = make_region(2)
    yield AudioWriter(handle, 2), AudioReader(handle, 2)
    os.close(handle)


@given(data=st.data(), form=st.sampled_from(FORMS), slot=st.integers(0, 1))
def test_what_is_written_is_read(region: tuple[AudioWriter, AudioReader], data: st.DataObject, form: Format, slot: int) -> None:
    """Packets of any size, whole samples or not, read in pieces of any size: the same bytes, as long as nobody falls behind."""
    writer, reader = region
    ours, theirs = SlotWriter(writer, slot, form), SlotReader(reader, slot, form)
    sent, got, now = bytearray(), bytearray(), 100.0
    for _ in range(data.draw(st.integers(1, 12))):
        packet = os.urandom(data.draw(st.integers(0, min(60_000, ours.capacity // 2))))
        while ours.room() < len(packet):
            available = theirs.available()
            piece, count, _ = theirs.take(data.draw(st.integers(form.width, available)) // form.width * form.width)
            assert count == len(got) // form.width
            got += piece
        now += 0.02
        ours.write(packet, now)
        sent += packet
    while available := theirs.available():
        got += theirs.take(available)[0]
    assert bytes(got) == bytes(sent[: len(sent) // form.width * form.width])
    assert theirs.lost == 0


def test_who_falls_behind_reads_on_where_audio_is_whole(region: tuple[AudioWriter, AudioReader]) -> None:
    writer, reader = region
    form = FORMS[0]
    ours, theirs = SlotWriter(writer, 0, form), SlotReader(reader, 0, form)
    everything = os.urandom(3 * ring_bytes(form))
    for at in range(0, len(everything), 160):
        ours.write(everything[at : at + 160])
    available = theirs.available()
    data, count, _ = theirs.take(available)
    assert len(data) == available <= ours.capacity
    assert count == theirs.lost == len(everything) - available
    assert data == everything[-available:]


def test_a_mark_moves_the_count(region: tuple[AudioWriter, AudioReader]) -> None:
    """Bytes before and behind a jump are never read as one piece, and count as the source does."""
    writer, reader = region
    ours, theirs = SlotWriter(writer, 1, FORMS[1]), SlotReader(reader, 1, FORMS[1])
    ours.write(b"ab" * 100)
    assert ours.mark(5000)
    ours.write(b"cd" * 50)
    assert theirs.available() == 300
    assert theirs.take(300)[:2] == (b"ab" * 100, 0)
    assert theirs.take(300)[:2] == (b"cd" * 50, 5000)
    ours.write(b"ef")
    assert theirs.available() == 2
    assert theirs.take(2)[:2] == (b"ef", 5050)
    again = SlotReader(reader, 1, FORMS[1], 100)  # another engine, from the middle on
    again.available()
    assert again.take(1000)[:2] == (b"ab" * 50, 50)
    assert again.take(1000)[1] == 5000


def test_marks_that_nobody_reads_are_bounded(region: tuple[AudioWriter, AudioReader]) -> None:
    writer, _ = region
    ours = SlotWriter(writer, 0, FORMS[0])
    taken = 0
    for i in range(MARKS + 10):
        ours.write(b"x")
        taken += ours.mark(1000 * i)
    assert taken == MARKS


def test_the_time_of_the_last_sample_is_its_packets(region: tuple[AudioWriter, AudioReader]) -> None:
    writer, reader = region
    ours, theirs = SlotWriter(writer, 0, FORMS[0]), SlotReader(reader, 0, FORMS[0])
    for i in range(100):
        ours.write(bytes(160), 50.0 + 0.02 * i)
    theirs.available()
    assert theirs.take(1280)[2] == pytest.approx(50.0 + 0.02 * 7)
    assert theirs.take(80)[2] == pytest.approx(50.0 + 0.02 * 8)
