"""The live loop in simulated time, and what an operator sees of it."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from edgeemo_runtime import PRESETS, DecisionRules, EdgeEmoError, Engine
from edgeemo_runtime.ops import store, top
from edgeemo_runtime.ops.canary import CanaryRules
from edgeemo_runtime.ops.config import Config, MetricsRules, SwapRules
from edgeemo_runtime.ops.live import Call, LiveLoop
from edgeemo_runtime.ops.supervisor import Supervisor
from edgeemo_runtime.schedule import Scheduler

from tests.conftest import speech

pytestmark = pytest.mark.slow
HOP = 1280
COST = np.array([0.0, *(0.001 + 0.0005 * n for n in range(1, 17))])


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)


@pytest.fixture(scope="module")
def artifact(host_artifacts: dict[str, Path]) -> Path:
    return host_artifacts["int8"]


def live(engine: Engine, clock: Clock) -> LiveLoop:
    return LiveLoop(engine, Scheduler(COST), clock.sleep)


def alone(artifact: Path, audio: np.ndarray) -> np.ndarray:
    engine = Engine(artifact, 1, PRESETS["raw"])
    stream = engine.open()
    rows = []
    for at in range(0, len(audio), HOP):
        stream.push(audio[at : at + HOP])
        stream.finish()
        rows += [r.probabilities for r in engine.step()]
    return np.array(rows)


def test_every_call_is_answered_in_time_as_if_alone(artifact: Path) -> None:
    """Calls of any length at any phase, among each other in any batch: each to the bit what it is alone, none after the
    budget."""
    rng, clock = np.random.default_rng(3), Clock()
    calls = [Call(f"c{i}", speech(i * 9, 14)[: int(rng.integers(2000, 14 * HOP))], float(rng.uniform(0, 0.5))) for i in range(12)]
    engine = Engine(artifact, 12, PRESETS["raw"], clock=clock)
    loop = live(engine, clock)
    got: dict[str, list[np.ndarray]] = {c.name: [] for c in calls}
    sizes = set()
    for results, refused in loop.run(calls):
        assert not refused
        assert (results.waited_s <= 0.02 + 1e-9).all()
        sizes.add(len(results))
        for r in results:
            got[loop.names[r.stream]].append(r.probabilities)
    assert len(sizes) > 1
    for call in calls:
        np.testing.assert_array_equal(np.array(got[call.name]), alone(artifact, call.audio))
    assert engine.open_streams == 0


def test_calls_beyond_capacity_are_refused_by_name(artifact: Path) -> None:
    clock = Clock()
    engine = Engine(artifact, 2, clock=clock)
    calls = [Call(f"c{i}", speech(i, 5), 0.01 * i) for i in range(4)]
    refused = [c.name for _, group in live(engine, clock).run(calls) for c in group]
    assert refused == ["c2", "c3"]
    assert engine.counters.refused == 2


def test_spread_phases_fill_batches_evenly(artifact: Path) -> None:
    clock = Clock()
    engine = Engine(artifact, 16, clock=clock, spread_phases=True)
    calls = [Call(f"c{i}", speech(i, 12), 0.0) for i in range(16)]
    parts = [len(results) for results, _ in live(engine, clock).run(calls)]
    assert max(parts[:100]) <= 4  # the ends, which come all at once, are later
    plain = Engine(artifact, 16, clock=clock)
    assert max(len(results) for results, _ in live(plain, clock).run(calls)) == 16


def operated(engine: Engine, clock: Clock, models: Path | None, config: Config) -> tuple[LiveLoop, Supervisor]:
    loop = live(engine, clock)
    return loop, Supervisor(engine, loop, config, models)


def arrived(supervisor: Supervisor) -> bool:
    """A poll; while a model is on its way, as many as that takes: it is tried in a child, which knows no clock but the real
    one."""
    going_on = supervisor.poll()
    while supervisor._arriving is not None and going_on:
        time.sleep(0.001)
        going_on = supervisor.poll()
    return going_on


def test_a_new_link_is_followed_a_broken_one_is_not(
    artifact: Path, host_artifacts: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models, clock = tmp_path / "models", Clock()
    first = store.install(artifact, models)
    engine = Engine(store.current(models), 4, PRESETS["raw"], clock=clock)
    loop, supervisor = operated(engine, clock, models, Config())
    old = engine.model.version
    calls = [Call(f"c{i}", np.resize(speech(i, 12), 60 * HOP), 0.03 * i) for i in range(4)]
    steps, versions = 0, []
    for n, (results, _) in enumerate(loop.run(calls, lambda: arrived(supervisor))):
        steps += len(results)
        versions += results.models
        if n == 20:
            second = store.install(host_artifacts["float"], models)
        if n == 100:
            third = store.install(host_artifacts["fp16"], models)
            (models / third / "step.so").write_bytes(b"nothing")
    assert steps == 4 * 60
    new = engine.model.version
    assert new != old
    assert versions[: 4 * 3] == [old] * 12
    assert versions[-4:] == [new] * 4
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(e["event"], e["name"]) for e in events] == [("model_swapped", second), ("model_refused", third)]
    assert events[1]["serving"] == second
    assert "step.so" in events[1]["reason"]
    assert first != second


@pytest.mark.parametrize("good", [True, False])
def test_a_canary_is_promoted_or_goes_back(
    artifact: Path, host_artifacts: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], good: bool
) -> None:
    models, clock = tmp_path / "models", Clock()
    first = store.install(artifact, models)
    engine = Engine(store.current(models), 6, PRESETS["raw"], clock=clock)
    rules = CanaryRules(share=0.5, observe="5s", min_steps=20, max_jump_rate_rise=1.0)
    loop, supervisor = operated(engine, clock, models, Config(canary=rules))
    second = store.install(host_artifacts["float"], models, store.CANARY)
    calls = [Call(f"c{i}", np.resize(speech(i, 12), 60 * HOP), 0.1 + 0.03 * i, user=f"u-{i}{i}") for i in range(6)]
    for n, _ in enumerate(loop.run(calls, lambda: arrived(supervisor))):
        if n == 60 and not good:
            assert engine.fleet.canary is not None
            engine.fleet.counters[engine.fleet.canary.model.version].errors = 50
    assert store.linked(models, store.CURRENT) == (second if good else first)
    assert store.linked(models, store.CANARY) is None
    events = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert events == ["canary_started", "canary_promoted" if good else "canary_back"]


def test_signals_are_taken_between_steps(artifact: Path) -> None:
    clock = Clock()
    engine = Engine(artifact, 1, clock=clock)
    loop, supervisor = operated(engine, clock, None, Config())
    before = {s: signal.getsignal(s) for s in (signal.SIGHUP, signal.SIGTERM)}
    try:
        supervisor.install_signal_handlers(end=True)
        count = 0
        for _ in loop.run([Call("c", np.resize(speech(0, 12), 100 * HOP))], supervisor.poll):
            count += 1
            if count == 10:
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGTERM)
        assert 10 <= count < 20
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_status_and_top(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    status = tmp_path / "status.json"
    engine = Engine(artifact, 3, DecisionRules(), clock=clock)
    loop, supervisor = operated(engine, clock, None, Config(metrics=MetricsRules(status=str(status))))
    for _ in loop.run([Call(f"c{i}", np.resize(speech(i, 12), 20 * HOP)) for i in range(2)], supervisor.poll):
        pass
    document = json.loads(status.read_text())
    (model,) = document["models"].values()
    assert model["steps"] == sum(model["labels"].values()) + model["listening"] and model["decisions"] > 0
    assert document["audio"]["opened"] == 2
    assert not list(tmp_path.glob(".*"))
    top.top(status, once=True)
    assert engine.model.version in capsys.readouterr().out
    with pytest.raises(EdgeEmoError, match="no such file"):
        top.read_status(tmp_path / "no.json")


def test_metrics_over_http_without_a_thread(artifact: Path) -> None:
    from edgeemo_runtime.ops.metrics import MetricsServer

    engine = Engine(artifact, 2)
    stream = engine.open()
    for i in range(5):
        stream.push(speech(1, 5)[i * HOP : (i + 1) * HOP])
        engine.step()
    server = MetricsServer(engine, "127.0.0.1", 0)
    said: list[str] = []

    def ask() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
            said.append(answer.read().decode())

    client = Thread(target=ask)  # the one who asks is somebody else
    client.start()
    while client.is_alive():
        server.poll()
    server.close()
    version = engine.model.version
    assert f'edgeemo_steps_total{{model="{version}"}} 5.0' in said[0]
    assert f'edgeemo_latency_seconds_count{{model="{version}"}} 5.0' in said[0]
    assert "edgeemo_streams 1.0" in said[0]
    held = MetricsServer(engine, "127.0.0.1", 0)
    with pytest.raises(EdgeEmoError, match=r"metrics 127\.0\.0\.1 port \d+: cannot be had"):
        MetricsServer(engine, "127.0.0.1", held.port)


def test_a_link_is_not_watched_when_told_so(artifact: Path, host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    clock = Clock()
    store.install(artifact, tmp_path)
    engine = Engine(store.current(tmp_path), 1, clock=clock)
    _, supervisor = operated(engine, clock, tmp_path, Config(swap=SwapRules(watch_s=0.0)))
    before = engine.model
    store.install(host_artifacts["float"], tmp_path)
    clock.now += 100
    assert supervisor.poll()
    assert engine.model is before
    supervisor._asked = True
    arrived(supervisor)
    assert engine.model is not before
