"""80 calls in real time, first alone, then while models that are broken in many ways and good ones become current, a client drips
bytes into the metrics port, SIGHUPs rain and the disk of the status file is full: `python -m tests.runtime.storm GOOD OTHER`.

Prints one JSON document: steps, answers dropped, latencies of both runs, memory. Exit code 1 if a step was lost, an answer came a
hop later than any without the storm, or memory grew.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeemo_runtime import Engine, store
from edgeemo_runtime.config import Config, MetricsRules, SwapRules
from edgeemo_runtime.live import LiveLoop
from edgeemo_runtime.loadtest import noise_calls
from edgeemo_runtime.members import read_members
from edgeemo_runtime.operate import Operator, resident_mb
from edgeemo_runtime.schedule import Scheduler

from tests.fuzz.mutate import damaged, damaged_document

CALLS, ALONE_S, HOP_S = 80, 60.0, 0.16
BROKEN, GOOD = 200, 50


def install_folder(models: Path, name: str, parts: dict[str, bytes]) -> None:
    folder = models / name
    folder.mkdir()
    for file, data in parts.items():
        (folder / file).write_bytes(data)
    (models / ".new").symlink_to(name)
    (models / ".new").replace(models / "current")


def broken(kind: int, parts: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    """A model that is broken in the ``kind``-th way."""
    manifest = json.loads(parts["manifest.json"])
    step = manifest["step"]
    changes: list[dict[str, Any]] = [
        {"target": "x"}, {"files": []}, {"schema": 99}, {"created": "../x"}, {"states": None}, {"step": 5},
        {"stream": {**manifest["stream"], "sample_rate": 0}}, {"stream": {**manifest["stream"], "labels": [1] * 7}},
        {"step": {**step, "arena_bytes_per_stream": 0}}, {"step": {**step, "state_words": 2**25}},
        {"step": {**step, "function": "main"}}, {"around": {"intake": "step", "decide": "step"}}, {"around": {"intake": 5}},
        {"target": {**manifest["target"], "machine": "vax"}},
    ]  # fmt: skip
    if kind < len(changes):
        return {**parts, "manifest.json": json.dumps({**manifest, **changes[kind]}).encode()}
    others: list[dict[str, bytes]] = [
        {"manifest.json": b"[" * 100_000}, {"manifest.json": b""}, {"weights.bin": parts["weights.bin"][:-64]},
        {"weights.bin": b""},
        {"step.so": b"hello"}, {"step.so": damaged(parts["step.so"], rng)}, {"weights.bin": damaged(parts["weights.bin"], rng)},
        {"manifest.json": json.dumps(damaged_document(manifest, rng)).encode()},
        {"manifest.json": damaged(parts["manifest.json"], rng)},
    ]  # fmt: skip
    return {**parts, **others[kind - len(changes)]}


KINDS = 23


def drip(port: int) -> subprocess.Popen[bytes]:
    code = (
        "import socket,time\n"
        "while True:\n"
        "    try:\n"
        f"        s = socket.create_connection(('127.0.0.1', {port}))\n"
        "        while True: s.send(b'G'); time.sleep(0.001)\n"
        "    except OSError: time.sleep(0.01)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code])


def storm(models: Path, sources: list[Path], rng: random.Random) -> Iterator[None]:
    """One more thing happens with every ``next``."""
    parts = []
    for source in sources:
        whole = read_members(source)
        parts.append({"manifest.json": whole.manifest, "step.so": whole.library, "weights.bin": whole.weights.tobytes()})
    plan = [("broken", i % KINDS) for i in range(BROKEN)] + [("good", i % len(parts)) for i in range(GOOD)]
    rng.shuffle(plan)
    for number, (what, which) in enumerate(plan):
        made = broken(which, parts[number % len(parts)], rng) if what == "broken" else parts[which]
        install_folder(models, f"cosyVoice-v{number:04}", made)
        yield
        for old in sorted(models.glob("cosyVoice-v*"))[:-6]:
            if old.name != store.linked(models, store.CURRENT):
                for file in old.iterdir():
                    file.unlink()
                old.rmdir()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def watched(artifact: Path, models: Path | None, seconds: float, config: Config, events: Iterator[None] | None) -> dict[str, Any]:
    """80 calls for so long, and what they noticed."""
    engine = Engine(artifact, CALLS, overload="drop-oldest")
    loop = LiveLoop(engine, Scheduler())
    operator = Operator(engine, loop, config, models)
    operator.take_signals(end=False)
    waited: list[float] = []
    memory: list[float] = []
    next_event = time.monotonic() + 1.0

    def poll() -> bool:
        nonlocal next_event, events
        if events is not None and time.monotonic() >= next_event:
            os.kill(os.getpid(), signal.SIGHUP)
            if operator._arriving is None:
                next(events, None)
                next_event = time.monotonic() + 0.4
        memory.append(resident_mb())
        return operator.poll()

    for results, _ in loop.run(noise_calls(CALLS, seconds, engine.sample_rate, HOP_S, 1), poll):
        waited += results.waited_s.tolist()
    operator.close()
    steps = sum(c.steps for c in engine.fleet.counters.values())
    early, late = memory[len(memory) // 4], memory[-1]
    ordered = sorted(waited)
    return {"steps": steps, "dropped_hops": engine.counters.dropped_hops, "models": len(engine.fleet.counters),
            "p50_ms": round(1e3 * ordered[len(ordered) // 2], 2), "p99_ms": round(1e3 * ordered[int(0.99 * len(ordered))], 2),
            "max_ms": round(1e3 * ordered[-1], 2), "later_than_20_ms": sum(w > 0.02 for w in waited),
            "resident_mb": [round(early, 1), round(late, 1)]}  # fmt: skip


def main() -> None:
    sources = [Path(a) for a in sys.argv[1:3]]
    top = Path(tempfile.mkdtemp(prefix="storm-"))
    (top / "models").mkdir()
    whole = read_members(sources[0])
    parts = {"manifest.json": whole.manifest, "step.so": whole.library, "weights.bin": whole.weights.tobytes()}
    install_folder(top / "models", "cosyVoice-v", parts)
    alone = watched(sources[0], None, ALONE_S, Config(), None)
    port = free_port()
    config = Config(swap=SwapRules(watch_s=0.2), metrics=MetricsRules(port=port, status="/dev/full/status.json"))
    client = drip(port)
    try:
        events = itertools.chain(storm(top / "models", sources, random.Random(7)))
        among = watched(store.current(top / "models"), top / "models", (BROKEN + GOOD) * 0.75 + 20, config, events)
    finally:
        client.kill()
    left = next(events, "all happened")
    print(json.dumps({"alone": alone, "in_the_storm": among, "left": left is None}, indent=1))
    late = among["max_ms"] > alone["max_ms"] + 1000 * HOP_S
    grown = among["resident_mb"][1] > among["resident_mb"][0] * 1.1
    sys.exit(bool(among["dropped_hops"] or late or grown))


if __name__ == "__main__":
    main()
