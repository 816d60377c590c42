"""Models that change under running calls: nothing is lost, and what comes out is what each model would say alone."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime import PRESETS, EdgeEmoError, Engine
from edgeemo_runtime.counters import ModelCounters
from edgeemo_runtime.fleet import CARRIED_PER_STEP, in_canary
from edgeemo_runtime.ops.canary import CanaryRules, failure

from tests.conftest import speech

HOP = 1280


@pytest.fixture(scope="module")
def old(host_artifacts: dict[str, Path]) -> Path:
    return host_artifacts["int8"]


@pytest.fixture(scope="module")
def new(host_artifacts: dict[str, Path]) -> Path:
    return host_artifacts["float"]


def hop(call: int, i: int) -> np.ndarray:
    return np.roll(speech(call, 12), 97 * call)[i % 12 * HOP :][:HOP]


def alone(artifact: Path, call: int, steps: range) -> np.ndarray:
    engine = Engine(artifact, 1, PRESETS["raw"])
    stream = engine.open()
    rows = []
    for i in steps:
        stream.push(hop(call, i))
        rows.append(engine.step().probabilities[0].copy())
    return np.array(rows)


@pytest.mark.slow
def test_calls_finish_on_the_old_model_and_new_ones_get_the_new(old: Path, new: Path) -> None:
    engine = Engine(old, 4, PRESETS["raw"])
    streams = [engine.open() for _ in range(2)]
    got: list[list[np.ndarray]] = [[], [], []]
    for i in range(9):
        if i == 4:
            engine.swap(new, carry="finish")
            streams.append(engine.open())
        for call, stream in enumerate(streams):
            stream.push(hop(call, i))
        results = engine.step()
        assert len(results) == len(streams)
        for call, p in enumerate(results.probabilities):
            got[call].append(p)
    for call in (0, 1):
        np.testing.assert_array_equal(np.array(got[call]), alone(old, call, range(9)))
    np.testing.assert_array_equal(np.array(got[2]), alone(new, 2, range(4, 9)))
    assert len(engine.fleet.models) == 2
    for stream in streams[:2]:
        stream.close()
    assert engine.fleet.models == [engine.model]


@pytest.mark.slow
def test_calls_carried_over_answer_as_the_new_model_from_their_ring_on(old: Path, new: Path) -> None:
    """Twenty calls move eight at a step; each is, from its move on, the new model after a replay of the hops in its ring."""
    engine = Engine(old, 20, PRESETS["raw"])
    kept = engine.model.ring_samples // engine.samples_per_step
    assert kept > 2
    streams = [engine.open() for _ in range(20)]
    got: list[list[np.ndarray]] = [[] for _ in streams]
    models: list[list[str]] = [[] for _ in streams]
    versions = [engine.model.version]
    for i in range(12):
        if i == 6:
            versions.append(engine.swap(new).version)
        for call, stream in enumerate(streams):
            stream.push(hop(call, i))
        results = engine.step()
        assert results.streams.tolist() == [s.id for s in streams]
        for call, p in enumerate(results.probabilities):
            got[call].append(p)
            models[call].append(results.models[call])
    for call in range(20):
        moved = models[call].index(versions[1])
        assert moved == 6 + call // CARRIED_PER_STEP
        np.testing.assert_array_equal(np.array(got[call][:moved]), alone(old, call, range(moved)))
        np.testing.assert_array_equal(np.array(got[call][moved:]), alone(new, call, range(moved - kept, 12))[kept:])
    assert len(engine.fleet.models) == 1


@pytest.mark.slow
def test_many_swaps_lose_no_step_and_keep_no_model(old: Path, new: Path) -> None:
    engine = Engine(old, 20, PRESETS["raw"])
    streams = [engine.open() for _ in range(20)]
    for i in range(30):
        if i % 3 == 0:
            engine.swap(new if i % 2 == 0 else old, carry="replay" if i % 4 else "finish")
        for call, stream in enumerate(streams):
            stream.push(hop(call, i))
        results = engine.step()
        assert len(results) == 20
        np.testing.assert_allclose(results.end_s, (i + 1) * 0.16)
        assert len(engine.fleet.models) <= 4
    for stream in streams:
        stream.close()
    assert len(engine.fleet.models) == 1


@pytest.mark.slow
def test_a_broken_model_leaves_the_old_one_serving(old: Path, new: Path, tmp_path: Path) -> None:
    engine = Engine(old, 2, PRESETS["raw"])
    stream = engine.open()
    data = bytearray(new.read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "altered.edgeemo").write_bytes(data)
    (tmp_path / "short.edgeemo").write_bytes(data[:1000])
    serving = engine.model
    for name in ("altered", "short", "missing"):
        with pytest.raises(EdgeEmoError, match=name):
            engine.swap(tmp_path / f"{name}.edgeemo")
        with pytest.raises(EdgeEmoError, match=name):
            engine.start_canary(tmp_path / f"{name}.edgeemo", 0.05)
    assert engine.fleet.models == [serving]
    stream.push(hop(0, 0))
    np.testing.assert_array_equal(engine.step().probabilities, alone(old, 0, range(1)))


def test_a_share_of_the_users_by_the_tail_of_their_id() -> None:
    assert in_canary("caller-1704", 0.05)
    assert not in_canary("caller-1705", 0.05)
    tails = [in_canary(f"+4930{n:06}", 0.05) for n in range(1000)]
    assert sum(tails) == 50
    words = [in_canary(f"user-{n}x", 0.2) for n in range(3000)]
    assert 480 < sum(words) < 720
    assert words == [in_canary(f"user-{n}x", 0.2) for n in range(3000)]


@pytest.mark.slow
@pytest.mark.parametrize("promote", [True, False])
def test_canary_side_by_side_then_for_all_or_none(old: Path, new: Path, promote: bool) -> None:
    engine = Engine(old, 8, PRESETS["raw"])
    before = engine.model
    canary = engine.start_canary(new, 0.05)
    users = ["a-03", "a-50", "b-99", "c-04"]
    streams = [engine.open(u) for u in users]
    for call, stream in enumerate(streams):
        stream.push(hop(call, 0))
    results = engine.step()
    assert results.models == [canary.version, before.version, before.version, canary.version]
    for call, artifact in enumerate((new, old, old, new)):
        np.testing.assert_array_equal(results.probabilities[call], alone(artifact, call, range(1))[0])
    assert engine.fleet.counters[canary.version].steps == 2
    assert engine.fleet.counters[before.version].steps == 2
    engine.end_canary(promote)
    for call, stream in enumerate(streams):
        stream.push(hop(call, 1))
    expected = canary if promote else before
    assert set(engine.step().models) == {expected.version}
    assert engine.fleet.models == [expected]


def test_a_canary_fails_by_errors_jumps_or_lateness() -> None:
    rules = CanaryRules(min_steps=100)
    labels = ("angry", "neutral")

    def counters(**values: int) -> ModelCounters:
        c = ModelCounters(labels)
        c.steps = 1000
        c.latency[0] = 1000
        for name, value in values.items():
            setattr(c, name, value)
        return c

    fine = counters(jumps=30)
    assert failure(rules, counters(jumps=49), fine) == ""
    assert failure(rules, counters(jumps=80), fine) == "jump rate 0.0800, against 0.0300 of the live model"
    assert failure(rules, counters(errors=2), fine) == "2 errors in 1000 steps"
    assert "late" in failure(rules, counters(late=100), fine)
    assert failure(rules, counters(steps=99, errors=99), fine) == ""


@pytest.mark.slow
def test_engines_in_two_threads_do_not_meet(old: Path) -> None:
    """Eight threads, an engine each, at the same time: every one answers to the bit what it answers alone."""
    expected = [alone(old, call, range(10)) for call in range(8)]
    got: dict[int, np.ndarray] = {}

    def work(call: int) -> None:
        got[call] = alone(old, call, range(10))

    threads = [threading.Thread(target=work, args=(call,)) for call in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for call in range(8):
        np.testing.assert_array_equal(got[call], expected[call])


@pytest.mark.slow
def test_an_engine_is_one_thread_s(old: Path) -> None:
    engine = Engine(old, 1)
    stream = engine.open()
    said: list[str] = []

    def elsewhere() -> None:
        for attempt in (engine.step, engine.open, lambda: stream.push(hop(0, 0)), lambda: engine.swap(old)):
            try:
                attempt()
            except EdgeEmoError as error:
                said.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(said) == 4
    assert all("belongs to the thread" in s for s in said)
