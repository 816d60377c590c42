"""Wall-clock cost of a step on this machine, for ratios: absolute times are this machine's and this minute's."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from edgeemo_runtime.model import MAX_BATCH

from edgeemo.bench.board_step import steps_of

ROUNDS = 9
ROUND_S = 0.03  # calls are repeated until a round takes this long

Name = TypeVar("Name", bound=Hashable)


def seconds_per_step(artifact: Path, streams: list[int]) -> dict[int, float]:
    """Seconds of one batched step by number of streams."""
    step = steps_of(str(artifact), MAX_BATCH)
    return fastest({n: step(n) for n in streams})


def fastest(calls: dict[Name, Callable[[], Any]]) -> dict[Name, float]:
    """Seconds of each call: the fastest of a few rounds, taken in turns so that a slow moment of the machine meets all."""
    repeats = {}
    for name, call in calls.items():
        call()
        began = time.perf_counter()
        call()
        repeats[name] = max(1, int(ROUND_S / max(time.perf_counter() - began, 1e-6)))
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            best[name] = min(best[name], (time.perf_counter() - began) / repeats[name])
    return best
