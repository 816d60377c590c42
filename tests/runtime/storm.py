"""80 calls in real time, first alone, then while models that are broken in many ways and good ones become current, a client drips
bytes into the metrics port, SIGHUPs rain and the disk of the status file is full: `python -m tests.runtime.storm ARTIFACT`.

Prints one JSON document: steps, answers dropped, latencies of both runs, memory. Exit code 1 if a step was lost, an answer came a
hop later than any without the storm, or memory grew.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgeemo_runtime import Engine, process
from edgeemo_runtime.members import read_members
from edgeemo_runtime.ops import store
from edgeemo_runtime.ops.config import Config, MetricsRules, SwapRules
from edgeemo_runtime.ops.live import LiveLoop
from edgeemo_runtime.ops.loadtest import noise_calls
from edgeemo_runtime.ops.supervisor import Supervisor, resident_mb
from edgeemo_runtime.schedule import Scheduler

from tests.fuzz.mutate import damaged, damaged_document

CALLS, ALONE_S, HOP_S = 80, float(os.environ.get("ALONE_S", "60")), 0.16
BROKEN, GOOD = int(os.environ.get("BROKEN", "200")), int(os.environ.get("GOOD", "50"))


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


def storm(models: Path, parts: list[dict[str, bytes]], watched_process: int, pace_s: float) -> None:
    """Changes the folder, in a process of its own: a model every ``pace_s``, and SIGHUP twenty times a second."""
    rng = random.Random(7)
    plan = [("broken", i % KINDS) for i in range(BROKEN)] + [("good", i % len(parts)) for i in range(GOOD)]
    rng.shuffle(plan)
    for number, (what, which) in enumerate(plan):
        made = broken(which, parts[number % len(parts)], rng) if what == "broken" else parts[which]
        install_folder(models, f"cosyVoice-v{number:04}", made)
        for _ in range(int(20 * pace_s)):
            os.kill(watched_process, signal.SIGHUP)
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def watched(artifact: Path, models: Path | None, seconds: float, config: Config) -> dict[str, Any]:
    """80 calls for so long, and what they noticed."""
    engine = Engine(artifact, CALLS, overload="drop-oldest")
    loop = LiveLoop(engine, Scheduler())
    supervisor = Supervisor(engine, loop, config, models)
    supervisor.install_signal_handlers(end=False)
    waited: list[float] = []
    memory: list[float] = []

    def poll() -> bool:
        memory.append(resident_mb())
        return supervisor.poll()

    for results, _ in loop.run(noise_calls(CALLS, seconds, engine.sample_rate, HOP_S, 1), poll):
        waited += results.waited_s.tolist()
    supervisor.close()
    steps = sum(c.steps for c in engine.fleet.counters.values())
    early, late = memory[len(memory) // 4], memory[-1]
    ordered = sorted(waited)
    return {"steps": steps, "dropped_hops": engine.counters.dropped_hops, "models": len(engine.fleet.counters),
            "p50_ms": round(1e3 * ordered[len(ordered) // 2], 2), "p99_ms": round(1e3 * ordered[int(0.99 * len(ordered))], 2),
            "max_ms": round(1e3 * ordered[-1], 2), "later_than_20_ms": sum(w > 0.02 for w in waited),
            "resident_mb": [round(early, 1), round(late, 1)]}  # fmt: skip


def main() -> None:
    good = Path(sys.argv[1])
    whole = read_members(good)
    parts = [{"manifest.json": whole.manifest, "step.so": whole.library, "weights.bin": whole.weights.tobytes()}]
    manifest = json.loads(whole.manifest)
    parts.append({**parts[0], "manifest.json": json.dumps({**manifest, "created": "2026-01-01"}).encode()})
    models = Path(tempfile.mkdtemp(prefix="storm-")) / "models"
    models.mkdir()
    install_folder(models, "cosyVoice-v", parts[0])
    alone = watched(good, None, ALONE_S, Config())
    port, pace_s = free_port(), 0.7
    config = Config(swap=SwapRules(watch_s=0.2), metrics=MetricsRules(port=port, status="/dev/full/status.json"))
    client, here = drip(port), os.getpid()
    child = os.fork()
    if not child:
        process.reset_scheduling()
        storm(models, parts, here, pace_s)
        os._exit(0)
    try:
        among = watched(store.current(models), models, (BROKEN + GOOD) * pace_s * 1.1 + 10, config)
    finally:
        client.kill()
        os.kill(child, signal.SIGKILL)
    print(json.dumps({"alone": alone, "in_the_storm": among}, indent=1))
    late = among["max_ms"] > alone["max_ms"] + 1000 * HOP_S
    grown = among["resident_mb"][1] > among["resident_mb"][0] * 1.1
    sys.exit(bool(among["dropped_hops"] or late or grown))


if __name__ == "__main__":
    main()
