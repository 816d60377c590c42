"""Engine and streams: batching changes nothing, slots leak nothing, misuse is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime import DecisionRules, EdgeEmoError, Engine

from tests.conftest import speech

pytestmark = pytest.mark.slow
STEPS = 30  # longer than the longest ring


@pytest.fixture(scope="module")
def artifact(host_artifacts: dict[str, Path]) -> Path:
    return host_artifacts["int8"]


def answers(engine: Engine, calls: list[np.ndarray], chunk: int) -> list[np.ndarray]:
    """Pushes calls side by side in chunks, stepping in between; probabilities (steps, 7) per call."""
    streams = [engine.open() for _ in calls]
    got: dict[int, list[np.ndarray]] = {s.id: [] for s in streams}
    for at in range(0, max(len(c) for c in calls), chunk):
        for stream, call in zip(streams, calls, strict=True):
            stream.push(call[at : at + chunk])
        while len(results := engine.step()):
            for result in results:
                got[result.stream].append(result.probabilities)
    for stream in streams:
        stream.close()
    return [np.array(got[s.id]) for s in streams]


def test_alone_or_among_others_is_the_same_to_the_bit(artifact: Path) -> None:
    calls = [speech(c, STEPS) for c in (0, 30, 60, 90, 120, 150, 180)]
    together = answers(Engine(artifact, 7), calls, chunk=1280)
    for call, expected in zip(calls, together, strict=True):
        alone = answers(Engine(artifact, 1), [call], chunk=1280)[0]
        np.testing.assert_array_equal(alone, expected)


@pytest.mark.parametrize("chunk", [160, 999, 5000, 10**6])
def test_how_audio_arrives_does_not_matter(artifact: Path, chunk: int) -> None:
    call = speech(5, 12)
    expected = answers(Engine(artifact, 1), [call], chunk=1280)[0]
    np.testing.assert_array_equal(answers(Engine(artifact, 1, backlog_hops=12), [call], chunk)[0], expected)


def test_a_slot_forgets_its_last_call(artifact: Path) -> None:
    engine = Engine(artifact, 1)
    fresh = answers(engine, [speech(0, STEPS)], 1280)[0]
    answers(engine, [speech(100, 17)], 1280)
    assert not engine.model.states.any()
    assert not engine._decisions.smoothed.any()
    assert (engine._decisions.window == len(engine.labels)).all()
    assert not engine._decisions.seen.any()
    assert not engine.rings.samples.any()
    np.testing.assert_array_equal(answers(engine, [speech(0, STEPS)], 1280)[0], fresh)


def test_results_have_times_probabilities_and_ema(artifact: Path) -> None:
    engine = Engine(artifact, 2, DecisionRules(alpha=0.5, confidence=False, consistency=False, settle=False))
    stream = engine.open()
    stream.push(speech(9, 3))
    results = [next(iter(engine.step())) for _ in range(3)]
    assert [(r.start_s, r.end_s) for r in results] == [(0, 0.16), (0.16, 0.32), (0.32, 0.48)]
    assert all(r.listening and r.label is None for r in results)  # nothing is averaged before there is a label
    while results[-1].listening:
        stream.push(speech(9, 3))
        results = [next(iter(engine.step())) for _ in range(3)]
    results = results[next(i for i, r in enumerate(results) if not r.listening) :]
    stream.push(speech(9, 3))
    results += [next(iter(engine.step())) for _ in range(3)]
    assert all(r.probabilities.sum() == pytest.approx(1, abs=1e-5) for r in results)
    np.testing.assert_array_equal(results[0].smoothed, results[0].probabilities)
    np.testing.assert_allclose(results[1].smoothed, 0.5 * (results[0].probabilities + results[1].probabilities), rtol=1e-6)
    assert results[2].label == engine.labels[int(results[2].smoothed.argmax())]
    assert len(engine.step()) == 0


def test_streams_at_their_own_phase_share_a_batch(artifact: Path) -> None:
    engine = Engine(artifact, 3)
    streams = [engine.open() for _ in range(3)]
    streams[0].push(speech(0, 1))
    streams[1].push(speech(1, 1)[:700])
    streams[2].push(speech(2, 2))
    assert sorted(engine.step().streams) == [streams[0].id, streams[2].id]
    streams[1].push(speech(1, 1)[700:])
    assert sorted(engine.step().streams) == [streams[1].id, streams[2].id]


def test_finish_pads_the_last_step(artifact: Path) -> None:
    engine = Engine(artifact, 1)
    with engine.open() as stream:
        stream.push(speech(4, 2)[:2000])
        assert len(engine.step()) == 1
        assert len(engine.step()) == 0
        stream.finish()
        assert len(engine.step()) == 1
        stream.finish()
        assert len(engine.step()) == 0


def test_recent_is_the_ring_of_51_frames(artifact: Path) -> None:
    engine = Engine(artifact, 1)
    stream = engine.open()
    call = speech(4, 8)
    for half in np.split(call, 2):
        stream.push(half)
        while len(engine.step()):
            pass
    np.testing.assert_array_equal(stream.recent(), call[-51 * 80 :])  # frames of 10 ms


def test_int16_is_float_over_32768(artifact: Path) -> None:
    call = np.round(speech(4, 3) * 32767).astype(np.int16)
    as_float = call.astype(np.float32) / 32768
    engine = Engine(artifact, 1)
    np.testing.assert_array_equal(answers(engine, [call], 1280)[0], answers(engine, [as_float], 1280)[0])


def test_misuse_is_named(artifact: Path) -> None:
    with pytest.raises(EdgeEmoError, match="alpha must lie"):
        DecisionRules(alpha=0)
    with pytest.raises(EdgeEmoError, match="max_streams"):
        Engine(artifact, max_streams=0)
    engine = Engine(artifact, 1)
    stream = engine.open()
    with pytest.raises(EdgeEmoError, match="all 1 streams are in use"):
        engine.open()
    for bad, words in (
        (np.zeros((2, 5), np.float32), "one channel"),
        (np.zeros(5), "float64"),
        (np.array([0, np.nan], np.float32), "sample 1 is NaN"),
    ):
        with pytest.raises(EdgeEmoError, match=words):
            stream.push(bad)
    stream.close()
    with pytest.raises(EdgeEmoError, match="is closed"):
        stream.push(np.zeros(5, np.float32))


def test_more_streams_than_a_batch_get_the_answers_they_would_get_alone(artifact: Path) -> None:
    """40 streams are three batches of the compiled step; each stream hears its own audio only."""
    engine, alone = Engine(artifact, 40), Engine(artifact, 1)
    streams = [engine.open() for _ in range(40)]
    for i, stream in enumerate(streams):
        stream.push(np.roll(speech(i, 2), 100 * i))
    results = [engine.step(), engine.step()]
    assert [len(r) for r in results] == [40, 40]
    for i in (0, 15, 16, 39):
        with alone.open() as one:
            one.push(np.roll(speech(i, 2), 100 * i))
            for r in results:
                np.testing.assert_allclose(r.probabilities[i], alone.step().probabilities[0], atol=1e-5)
