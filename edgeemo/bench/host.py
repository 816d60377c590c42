"""Wall-clock cost of the compiled step on this machine, for ratios: absolute times are this machine's and this minute's."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from edgeemo_runtime.model import LARGEST_BATCH, Model

ROUNDS = 9
ROUND_S = 0.03  # steps are repeated until a round takes this long


def seconds_per_step(artifact: Path, streams: list[int]) -> dict[int, float]:
    """Seconds of one batched step by number of streams: the fastest of a few rounds, taken in turns so that a slow moment of the
    machine meets every batch size."""
    model = Model(artifact, LARGEST_BATCH)
    model.audio[:] = 0.1 * np.random.default_rng(0).standard_normal(model.audio.shape)
    slots = np.arange(LARGEST_BATCH)
    best = dict.fromkeys(streams, float("inf"))
    repeats = {}
    for n in streams:
        run = model.bound(slots[:n])
        run()
        began = time.perf_counter()
        run()
        repeats[n] = max(1, int(ROUND_S / max(time.perf_counter() - began, 1e-6)))
    for _ in range(ROUNDS):
        for n in streams:
            run = model.bound(slots[:n])
            began = time.perf_counter()
            for _ in range(repeats[n]):
                run()
            best[n] = min(best[n], (time.perf_counter() - began) / repeats[n])
    return best
