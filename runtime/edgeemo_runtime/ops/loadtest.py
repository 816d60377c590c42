"""`edgeemo-run bench`: many calls through one engine, paced as calls are or as fast as it goes; percentiles, memory, misses."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime import process
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.ops.live import Call, LiveLoop
from edgeemo_runtime.ops.supervisor import resident_mb
from edgeemo_runtime.schedule import Scheduler

WARM_UP_S = 5.0  # before memory is compared
AUDIO_S = 8.0  # of noise that is said over and over


def noise_calls(streams: int, seconds: float, rate: int, hop_s: float, seed: int) -> list[Call]:
    """Calls of babble-like noise, phases spread at random over a hop. Audio is shared: it is cut, not copied."""
    rng = np.random.default_rng(seed)
    n = int(AUDIO_S * rate)
    envelope = np.interp(np.arange(n), np.arange(0, n, rate // 8), np.abs(rng.standard_normal(-(-n // (rate // 8)))))
    audio = np.tile((0.05 * envelope * rng.standard_normal(n)).astype(np.float32), int(seconds / AUDIO_S) + 2)
    begins, shifts = rng.uniform(0, hop_s, streams), rng.integers(0, n, streams)
    length = int(seconds * rate)
    return [
        Call(f"call-{i}", audio[s : s + length], float(b), f"user-{i}")
        for i, (b, s) in enumerate(zip(begins, shifts, strict=True))
    ]


def run_bench(
    artifact: Path, streams: int, seconds: float, real_time: bool, seed: int, spread: bool, budget_s: float
) -> dict[str, Any]:
    """Latency is from a hop's last sample to its answer. Only ``real_time`` has latencies: without pace there is nothing to wait
    for."""
    engine = Engine(artifact, streams, overload="drop-oldest", spread_phases=spread and real_time, budget_s=budget_s)
    process.assert_single()
    samples = int(seconds * engine.sample_rate)
    calls = noise_calls(streams, seconds, engine.sample_rate, engine.step_s, seed)
    process.freeze_gc()
    measured = _paced(engine, calls, samples, budget_s) if real_time else _unpaced(engine, calls, samples)
    steps = sum(c.steps for c in engine.fleet.counters.values())
    batches = sum(int(c.batches.sum()) for c in engine.fleet.counters.values())
    return {
        "artifact": str(artifact),
        "streams": streams,
        "seconds": seconds,
        "real_time": real_time,
        "seed": seed,
        "steps": steps,
        "mean_batch": round(steps / max(1, batches), 2),
        "dropped_hops": engine.counters.dropped_hops,
        "threads": process.threads(),
        **measured,
    }


def _paced(engine: Engine, calls: list[Call], samples: int, budget_s: float) -> dict[str, Any]:
    loop = LiveLoop(engine, Scheduler(budget_s=budget_s))
    began = time.monotonic()
    stolen, switched = _stolen_s(), _switched_out()
    warm: list[float] = []
    # All that will be measured, there and touched from the start: the engine's memory is to be seen, not this.
    waited = np.full(len(calls) * (-(-samples // engine.samples_per_step) + 1), -1.0, dtype=np.float32)
    count = 0
    memory = np.zeros(2)

    def watch() -> bool:
        now = resident_mb()
        if not warm and time.monotonic() - began > WARM_UP_S:
            warm.append(now)
        memory[:] = now, max(memory[1], now)
        return True

    for results, _ in loop.run(calls, watch):
        waited[count : count + len(results)] = results.waited_s
        count += len(results)
    wall = time.monotonic() - began
    latency = 1000 * waited[:count]
    return {
        "latency_ms": {f"p{p}": round(float(np.percentile(latency, p)), 2) for p in (50, 90, 95, 99)}
        | {"max": round(float(latency.max()), 2)},
        "misses": int((latency > 1000 * budget_s).sum()),
        "budget_ms": 1000 * budget_s,
        "stolen_s": round(_stolen_s() - stolen, 2),
        "switched_out": _switched_out() - switched,
        "utilisation": round(loop.busy_s / wall, 4),
        "rtf": round(loop.busy_s / (len(calls) * samples / engine.sample_rate), 6),
        "resident_mb": {
            "warm": round(warm[0] if warm else memory[0], 2),
            "end": round(float(memory[0]), 2),
            "most": round(float(memory[1]), 2),
        },
        "histogram_ms": _histogram(latency),
    }


def _stolen_s() -> float:
    """Seconds that the machine under a virtual one gave to others, all cores together; 0 where it does not say."""
    try:
        return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _switched_out() -> int:
    """How often another process took the core while this one had work."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _unpaced(engine: Engine, calls: list[Call], samples: int) -> dict[str, Any]:
    hop = engine.samples_per_step
    streams = [engine.open(c.user) for c in calls]
    audio = [c.open() for c in calls]
    busy = 0.0
    warm = 0.0
    count = samples // hop
    for i in range(count):
        for stream, source in zip(streams, audio, strict=True):
            stream.push(source.read(hop))
        began = time.perf_counter()
        engine.step()
        busy += time.perf_counter() - began
        warm = resident_mb() if i == min(count - 1, 30) else warm
    heard = count * engine.step_s
    return {
        "utilisation": round(busy / heard, 4),
        "rtf": round(busy / (heard * len(calls)), 6),
        "resident_mb": {"warm": round(warm, 2), "end": round(resident_mb(), 2)},
    }


def _histogram(latency_ms: np.ndarray) -> dict[str, list[float]]:
    counts, edges = np.histogram(latency_ms, bins=60)
    return {"edges": [round(float(e), 3) for e in edges], "counts": counts.tolist()}


def check_plot() -> None:
    """Before a long run: raises EdgeEmoError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EdgeEmoError("--plot needs matplotlib: pip install matplotlib, or leave it out and take --json") from error


def plot_histogram(document: dict[str, Any], path: Path) -> None:
    """The latencies of a paced run, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    histogram = document["histogram_ms"]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.stairs(histogram["counts"], histogram["edges"], fill=True)
    axes.axvline(document["budget_ms"], color="grey", linestyle="--", linewidth=1, label="budget")
    axes.set(xlabel="ms from a hop's last sample to its answer", ylabel="answers", yscale="log")
    axes.set_title(f"{document['streams']} calls, {document['seconds']:.0f} s in real time")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def show(document: dict[str, Any]) -> None:
    """A few lines a person reads."""
    plain = {k: v for k, v in document.items() if k != "histogram_ms"}
    for key, value in plain.items():
        text = "  ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        print(f"{key.replace('_', ' '):14} {text}")
