"""Model swaps under load, many of them: `make soak`, or python -m tests.runtime.soak OLD NEW [SWAPS [STREAMS]].

Every swap carries all calls over by replay. After each, one call is compared to the bit with the new model run alone from that
call's ring on, and one still on the old model with the old one; no step may be missing, and no swap with the step after it may
take longer than a hop. Prints one JSON document; exit code 1 if anything of this failed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from edgeemo_runtime import PRESETS, Engine
from edgeemo_runtime.artifact import load_artifact
from edgeemo_runtime.fleet import CARRIED_PER_STEP
from edgeemo_runtime.model import Model
from edgeemo_runtime.ops.supervisor import resident_mb

HOP, REPLAYED = 1280, 4


class Calls:
    """Audio of every call by its number of hops: noise of its own level, made as it is asked for."""

    def __init__(self, streams: int) -> None:
        rng = np.random.default_rng(0)
        self.audio = (0.1 * rng.standard_normal(64 * HOP)).astype(np.float32)
        self.shift = rng.integers(0, 64 * HOP, streams)

    def hop(self, call: int, i: int) -> np.ndarray:
        return self.audio.take(np.arange(HOP) + (self.shift[call] + i * HOP), mode="wrap")


def alone(model: Model, calls: Calls, call: int, first: int, last: int) -> np.ndarray:
    """The answer to hop ``last`` of a model that begins with hop ``first``."""
    model.clear(0)
    for i in range(first, last + 1):
        model.audio[0] = calls.hop(call, i)
        answer = model.run(np.array([0]))[0].copy()
    return answer


def soak(artifacts: list[Path], swaps: int, streams: int) -> dict[str, float]:
    loaded = [load_artifact(a) for a in artifacts]
    references = [Model(a, 1) for a in loaded]
    calls = Calls(streams)
    engine = Engine(loaded[0], streams, PRESETS["raw"])
    open_calls = [engine.open() for _ in range(streams)]
    moving = -(-streams // CARRIED_PER_STEP)
    wrong = lost = compared = 0
    slowest = 0.0
    hop = 0
    warm = 0.0
    begun = np.zeros(streams, dtype=np.int64)  # the hop from which on each call is its model's alone
    for swap in range(swaps):
        began = time.perf_counter()
        engine.swap(artifacts[(swap + 1) % 2], carry="replay")
        swap_s = time.perf_counter() - began
        for after in range(moving + 2):
            for call, stream in enumerate(open_calls):
                stream.push(calls.hop(call, hop))
            began = time.perf_counter()
            results = engine.step()
            slowest = max(slowest, time.perf_counter() - began + (swap_s if after == 0 else 0.0))
            lost += streams - len(results)
            moved = min(streams, (after + 1) * CARRIED_PER_STEP)
            begun[moved - CARRIED_PER_STEP : moved] = (
                max(0, hop - REPLAYED) if after < moving else begun[moved - CARRIED_PER_STEP]
            )
            for call in {(7 * swap) % moved, streams - 1} if after in (0, moving) else ():
                new = call < moved
                model = references[(swap + 1) % 2 if new else swap % 2]
                compared += 1
                wrong += not np.array_equal(results.probabilities[call], alone(model, calls, call, int(begun[call]), hop))
            hop += 1
        warm = resident_mb() if swap == min(20, swaps // 2) else warm
    return {
        "swaps": swaps,
        "streams": streams,
        "steps": hop * streams,
        "lost_steps": lost,
        "compared": compared,
        "wrong": wrong,
        "slowest_swap_and_step_ms": round(1000 * slowest, 1),
        "resident_mb_warm": round(warm, 1),
        "resident_mb_end": round(resident_mb(), 1),
    }


def main() -> None:
    swaps = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
    streams = int(sys.argv[4]) if len(sys.argv) > 4 else 80
    report = soak([Path(sys.argv[1]), Path(sys.argv[2])], swaps, streams)
    print(json.dumps(report, indent=1))
    sys.exit(bool(report["lost_steps"] or report["wrong"] or report["slowest_swap_and_step_ms"] > 160))


if __name__ == "__main__":
    main()
