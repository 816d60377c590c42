"""Audio that is late, doubled, missing, too much, off centre, or silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime import AudioRules, EdgeEmoError, Engine, OverloadError, Stream
from edgeemo_runtime.conditioning import Conditioner

from tests.conftest import speech

pytestmark = pytest.mark.slow
HOP = 1280


@pytest.fixture(scope="module")
def artifact(host_artifacts: dict[str, Path]) -> Path:
    return host_artifacts["int8"]


def hear(engine: Engine, stream: Stream, pieces: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Pushes (position, samples) and steps after each; probabilities (steps, 7)."""
    got = []
    for at, samples in pieces:
        stream.push(samples, at=at)
        while len(results := engine.step()):
            got.append(results.probabilities[0].copy())
    return np.array(got)


def plain(artifact: Path, audio: np.ndarray) -> np.ndarray:
    engine = Engine(artifact, 1)
    return hear(engine, engine.open(), [(i, audio[i : i + HOP]) for i in range(0, len(audio), HOP)])


def test_what_comes_twice_is_heard_once(artifact: Path) -> None:
    call = speech(7, 6)
    engine = Engine(artifact, 1)
    packets = [(1000 + i, call[i : i + 480]) for i in range(0, len(call), 480)]
    doubled = [p for packet in packets for p in (packet, packet)]
    doubled.insert(9, packets[2])  # and one that is late by far
    np.testing.assert_array_equal(hear(engine, engine.open(), doubled), plain(artifact, call))
    assert engine.counters.duplicate_samples == len(call) + 480
    assert engine.counters.gaps == 0


def test_an_overlap_is_cut(artifact: Path) -> None:
    call = speech(7, 4)
    engine = Engine(artifact, 1)
    got = hear(engine, engine.open(), [(0, call[:2000]), (1500, call[1500:4000]), (4000, call[4000:])])
    np.testing.assert_array_equal(got, plain(artifact, call))


def test_a_gap_is_filled_with_silence_and_counted(artifact: Path) -> None:
    call = speech(7, 6)
    holed = call.copy()
    holed[2000:3000] = 0
    engine = Engine(artifact, 1)
    got = hear(engine, engine.open(), [(50, call[:2000]), (3050, call[3000:6000]), (6050, call[6000:])])
    np.testing.assert_array_equal(got, plain(artifact, holed))
    assert (engine.counters.gaps, engine.counters.filled_samples, engine.counters.resets) == (1, 1000, 0)


@pytest.mark.parametrize("rules", [AudioRules(gaps="reset"), AudioRules(max_fill_s=0.1)])
def test_a_gap_begins_the_stream_anew(artifact: Path, rules: AudioRules) -> None:
    call = speech(7, 6)
    engine = Engine(artifact, 1, audio=rules)
    stream = engine.open()
    hear(engine, stream, [(0, call[: 3 * HOP])])
    stream.push(call[3 * HOP : 4 * HOP], at=9 * HOP)
    results = engine.step()
    assert results.start_s[0] == pytest.approx(9 * 0.16)
    np.testing.assert_array_equal(results.probabilities[0], plain(artifact, call[3 * HOP : 4 * HOP])[0])
    assert engine.counters.resets == 1


def test_too_much_audio_is_refused_and_nothing_of_it_taken(artifact: Path) -> None:
    engine = Engine(artifact, 1, backlog_hops=2)
    stream = engine.open()
    with pytest.raises(OverloadError, match="step\\(\\) oftener"):
        stream.push(speech(1, 4))
    assert stream.waiting() == 0
    stream.push(speech(1, 3))
    assert stream.room() == 0


def test_or_the_oldest_hops_are_dropped_and_counted(artifact: Path) -> None:
    engine = Engine(artifact, 1, overload="drop-oldest", backlog_hops=2)
    stream = engine.open()
    call = speech(1, 20)
    for at in range(0, 10 * HOP, 1000):
        stream.push(call[at : at + 1000])
        assert stream.waiting() <= 3 * HOP
    results = engine.step()
    assert engine.counters.dropped_hops > 0
    assert results.start_s[0] == pytest.approx(engine.counters.dropped_hops * 0.16)
    stream.push(call)  # more at once than the ring holds: the newest of it is kept
    last = [r for _ in range(3) for r in engine.step()][-1]
    assert last.end_s == pytest.approx((13 * 1000 + 20 * HOP) // HOP * 0.16)
    assert len(engine.step()) == 0


def test_a_fast_source_clock_does_not_pile_up(artifact: Path) -> None:
    """8,080 samples a second for a minute of a source's time: answered hop by hop, nothing waits longer at the end."""
    engine = Engine(artifact, 1)
    stream = engine.open()
    most = 0
    audio = np.resize(speech(3, 8), 8080)
    for _ in range(60):
        for at in range(0, 8080, 404):
            stream.push(audio[at : at + 404])
            engine.step()
            most = max(most, stream.waiting())
    assert most < HOP
    assert engine.counters.dropped_hops == 0


def test_a_lasting_offset_is_taken_out_and_sound_audio_left_alone() -> None:
    rng = np.random.default_rng(0)
    conditioner = Conditioner(2, HOP, AudioRules())
    slots = np.array([0, 1])
    for step in range(60):
        clean = (0.1 * rng.standard_normal((2, HOP))).astype(np.float32)
        clean -= clean.mean(axis=1, keepdims=True)
        heard = clean.copy()
        heard[1] += 0.05
        conditioner(slots, heard)
        np.testing.assert_array_equal(heard[0], clean[0])
        offset = float((heard[1] - clean[1]).mean())
        assert offset == pytest.approx(0.05 if step < 2 else 0.05 * 0.9 ** (step + 1), abs=1e-5)


def test_what_is_out_of_range_is_clipped(artifact: Path) -> None:
    loud = 30 * speech(2, 2)
    engine = Engine(artifact, 1)
    got = hear(engine, engine.open(), [(0, loud)])
    np.testing.assert_array_equal(got, plain(artifact, loud.clip(-1, 1)))


def test_silence_is_skipped_after_its_hangover(artifact: Path) -> None:
    call = np.concatenate([speech(5, 4), np.zeros(12 * HOP, np.float32), speech(6, 4)])
    engine = Engine(artifact, 1, audio=AudioRules(skip_silence=True, hangover_steps=3))
    got = hear(engine, engine.open(), [(i, call[i : i + HOP]) for i in range(0, len(call), HOP)])
    expected = plain(artifact, call)
    np.testing.assert_array_equal(got[:7], expected[:7])
    assert engine.counters.skipped_steps == 9
    assert got.shape == expected.shape
    np.testing.assert_allclose(got[7:16], np.tile(got[7], (9, 1)), rtol=1e-5)


def test_a_stream_s_first_position_is_its_own(artifact: Path) -> None:
    engine = Engine(artifact, 1, spread_phases=True, clock=lambda: 0.0)
    first = engine.open()
    first.push(speech(1, 1), at=10**9)
    assert engine.counters.gaps == 0
    assert engine.step().end_s[0] == pytest.approx(10**9 / 8000 + 0.16)


def test_rules_out_of_range() -> None:
    for wrong in ({"gaps": "x"}, {"max_fill_s": -1.0}, {"max_offset": 0.0}, {"silence_dbfs": 3.0}, {"hangover_steps": 0}):
        with pytest.raises(EdgeEmoError, match=next(iter(wrong))):
            AudioRules(**wrong)
