"""Compiled code around the network does what numpy does, on the same arrays, whichever of them serves a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime import PRESETS, Engine
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.decision import MEMORY, DecisionRules, Decisions
from edgeemo_runtime.model import Model
from edgeemo_runtime.results import StepResults
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow
LABELS = ("angry", "happy", "sad", "neutral", "fear", "disgust", "surprise")
RULES = st.builds(
    DecisionRules,
    alpha=st.sampled_from([0.1, 0.3, 1.0]),
    consistency=st.booleans(),
    window_steps=st.integers(1, 6),
    disagreement=st.sampled_from([0.2, 0.6, 1.0]),
    confidence=st.booleans(),
    min_confidence=st.sampled_from([0.0, 0.3, 0.55, 1.0]),
    settle=st.booleans(),
    decision_s=st.sampled_from([0.0, 0.16, 0.5, 1.0]),
    settle_decisions=st.integers(1, 4),
    handoff=st.booleans(),
    handoff_decisions=st.integers(1, 4),
    jump_s=st.sampled_from([0.0, 0.5, 2.0]),
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def engine(artifact: Path, compiled: bool, rules: DecisionRules, streams: int = 5) -> Engine:
    """Both kinds with the same steps of the clock."""
    made = Engine(artifact, streams, rules, AudioRules(), clock=Clock())
    if not compiled:
        made._compiled.serves = lambda model, slots: False  # type: ignore[method-assign]
    return made


def same(ours: StepResults, theirs: StepResults, off: float = 0.0) -> None:
    """``off``: by how much probabilities may differ."""
    for name in ("streams", "start_s", "end_s", "label", "handoff", "waited_s"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype, name
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, rtol=0, atol=off)
    np.testing.assert_allclose(ours.smoothed, theirs.smoothed, rtol=0, atol=off)
    assert (ours.intensity, ours.models, ours.labels) == (theirs.intensity, theirs.models, theirs.labels)


def memories(engines: list[Engine], off: float = 0.0) -> None:
    """Everything that the next step depends on."""
    a, b = engines
    np.testing.assert_allclose(a._decisions.smoothed, b._decisions.smoothed, rtol=0, atol=off)
    for name in ("window", "seen", "memory"):
        np.testing.assert_array_equal(getattr(a._decisions, name), getattr(b._decisions, name), name)
    np.testing.assert_array_equal(a.rings.taken_samples, b.rings.taken_samples)
    np.testing.assert_array_equal(a._ready_since, b._ready_since)
    np.testing.assert_allclose(a._conditioner.mean, b._conditioner.mean, atol=1e-6)


@pytest.mark.parametrize(("kind", "offset", "off"), [("int8", 0.0, 1e-6), ("float", 0.05, 1e-5)])
def test_whole_calls(host_artifacts: dict[str, Path], kind: str, offset: float, off: float) -> None:
    """Calls that come and go, with two steps waiting at once, in batches of any size, and one with an offset: a mean is another
    float when it is summed in another order, and INT8 layers may make a whole step of that: the offset is the float model's."""
    rng = np.random.default_rng(0)
    engines = [engine(host_artifacts[kind], compiled, PRESETS["call-centre"]) for compiled in (True, False)]
    streams = [[e.open() for _ in range(3)] for e in engines]
    assert engines[0]._compiled.serves(engines[0].model, np.arange(3))
    for step in range(40):
        if step == 12:
            for e, mine in zip(engines, streams, strict=True):
                mine.pop(0).close()
                mine += [e.open(), e.open()]
        for i in range(len(streams[0])):
            count = int(rng.integers(0, 3)) * 1280 + int(rng.integers(0, 400))
            samples = (0.3 * rng.standard_normal(count)).clip(-0.9, 0.9).astype(np.float32) + np.float32(offset * (i == 1))
            for mine in streams:
                if mine[i].room() >= count:
                    mine[i].push(samples)
        ours, theirs = (e.step() for e in engines)
        same(ours, theirs, off=off)
        memories(engines, off=off)
    documents = [e.fleet.counters_of(e.model) for e in engines]
    for counters in documents:
        counters.settle()
    assert documents[0].document() == documents[1].document()
    assert documents[0].steps > 50


def test_a_call_may_change_over_at_any_step(host_artifacts: dict[str, Path]) -> None:
    """One engine by compiled code at every second step, one by numpy alone: as during a canary."""
    rng = np.random.default_rng(1)
    engines = [engine(host_artifacts["int8"], compiled, PRESETS["in-car"]) for compiled in (True, False)]
    serves: Callable = engines[0]._compiled.serves
    streams = [[e.open() for _ in range(2)] for e in engines]
    for step in range(20):
        engines[0]._compiled.serves = (lambda model, slots: False) if step % 2 else serves  # type: ignore[method-assign]
        samples = (0.2 * rng.standard_normal((2, 1280))).astype(np.float32)
        for mine in streams:
            for stream, audio in zip(mine, samples, strict=True):
                stream.push(audio)
        same(*(e.step() for e in engines))
        memories(engines)


def test_what_is_no_probability_is_counted_and_poisons_nothing(host_artifacts: dict[str, Path]) -> None:
    engines = [engine(host_artifacts["int8"], compiled, PRESETS["call-centre"]) for compiled in (True, False)]
    for e in engines:
        bound, calls = e.model.bound, [e.open() for _ in range(2)]

        def spoilt(slots: np.ndarray, model: Model = e.model, bound: Callable = bound) -> Callable[[], None]:
            run = bound(slots)
            return lambda: (run(), model.answers.__setitem__((0, 3), np.nan))[1]

        e.model.bound = spoilt  # type: ignore[method-assign]
        for _ in range(3):
            for call in calls:
                call.push(np.tile(np.float32([0.1, -0.1]), 640))
            results = e.step()
            assert np.isfinite(results.probabilities).all() and np.isfinite(results.smoothed).all()
            np.testing.assert_allclose(results.probabilities[0], 1 / 7, rtol=1e-6)
    assert [e.fleet.counters_of(e.model).errors for e in engines] == [3, 3]
    memories(engines)


@settings(max_examples=25)
@given(rules=RULES, seed=st.integers(0, 2**31))
def test_rules(host_artifacts: dict[str, Path], rules: DecisionRules, seed: int) -> None:
    """Any rules on any answers: those of the network are put in the place of its own."""
    rng = np.random.default_rng(seed)
    made = engine(host_artifacts["int8"], True, rules, 4)
    for _ in range(4):
        made.open()
    model, numpy_rules = made.model, Decisions(4, LABELS, rules, 0.16)
    assert model.labels == LABELS
    place, least = int(model.speech[0]), float(model.speech[1])
    assert place >= 0 and least > 0
    for _ in range(25):
        slots = rng.permutation(4)[: rng.integers(1, 5)]
        answers = rng.dirichlet(np.full(7, 0.4), len(slots)).astype(np.float32)

        def step(rows: np.ndarray = slots, found: np.ndarray = answers) -> Callable[[], None]:
            model.batch_slots[: len(rows)] = rows
            return lambda: model.answers.__setitem__(slice(len(rows)), found)

        # The count of a model that takes over is another one: less, or more by any number of steps.
        model.states[slots, place] += rng.choice(np.float32([0.0, 0.1, 0.7, 1.0, 1.0, 20.0, -3.0]), len(slots))
        model.bound = lambda rows, step=step: step()  # type: ignore[method-assign, misc]
        got, probabilities, _, _ = made._compiled(model, slots)
        wanted = numpy_rules(slots, answers, model.states[slots, place], least)
        np.testing.assert_array_equal(probabilities, answers)
        np.testing.assert_array_equal(got.smoothed, wanted.smoothed)
        np.testing.assert_allclose(got.probabilities, wanted.probabilities, rtol=1e-6)
        for name in ("label", "low", "jumped", "changed", "decision", "handoff"):
            np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name), name)
    kept = [i for i, name in enumerate(MEMORY) if rules.settle or name != "in_row"]  # which nothing reads then
    np.testing.assert_array_equal(made._decisions.memory[:, kept], numpy_rules.memory[:, kept])


def test_an_artifact_without_them_is_served_by_numpy(host_artifacts: dict[str, Path]) -> None:
    from edgeemo_runtime.artifact import load_artifact

    artifact = load_artifact(host_artifacts["int8"])
    old = replace(artifact, manifest={k: v for k, v in artifact.manifest.items() if k != "around"})
    made = Engine(old, 2)
    assert old.manifest["stream"]["listening"]["state"] == "spoken"
    made.open().push(np.full(1280, 0.1, np.float32))
    assert made.model.around is None and len(made.step()) == 1


def test_an_artifact_that_counts_no_speech_has_a_label_from_its_first_step(host_artifacts: dict[str, Path]) -> None:
    """Those compiled before there was a listening state: every step counts as one of speech, in numpy and in compiled code."""
    from edgeemo_runtime.artifact import load_artifact

    artifact = load_artifact(host_artifacts["int8"])
    stream = {k: v for k, v in artifact.manifest["stream"].items() if k != "listening"}
    old = replace(artifact, manifest={**artifact.manifest, "stream": stream})
    engines = [Engine(old, 2, DecisionRules(confidence=False), clock=Clock()) for _ in range(2)]
    engines[1]._compiled.serves = lambda model, slots: False  # type: ignore[method-assign]
    rng = np.random.default_rng(0)
    calls = [e.open() for e in engines]
    for _ in range(15):
        samples = (0.2 * rng.standard_normal(1280)).astype(np.float32)
        for call in calls:
            call.push(samples)
        ours, theirs = (e.step() for e in engines)
        assert next(iter(ours)).label is not None
        same(ours, theirs)
    memories(engines)
    engines[0].fleet.counters_of(engines[0].model).settle()
    assert engines[0].fleet.counters_of(engines[0].model).decisions == 2  # at 0.16 and 1.76 s
