"""Run on the (emulated) board, not imported: a batch of streams through the compiled step, between two marker system calls.

    python board_step.py ARTIFACT STREAMS STEPS {step|engine}

``step`` marks the compiled step alone, ``engine`` whole calls of Engine.step with its Python. The markers are what a72cost and
the instruction counter of tests/aarch64 look for: syscall(0x7a72, 1) and syscall(0x7a72, 2).
"""

import ctypes
import sys

import numpy as np
from edgeemo_runtime import Engine

MARK = 0x7A72
WARM_UP = 3


def main() -> None:
    artifact, streams, steps, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    engine = Engine(artifact, streams)
    noise = np.random.default_rng(0)
    for _ in range(streams):
        samples = 0.1 * noise.standard_normal(engine.samples_per_step * (steps + WARM_UP + 1))
        engine.open().push(samples.astype(np.float32))
    for _ in range(WARM_UP):
        engine.step()
    mark = ctypes.CDLL(None).syscall
    if what == "engine":
        mark(MARK, 1, 0)
        for _ in range(steps):
            engine.step()
        mark(MARK, 2, 0)
        return
    arguments = engine._arguments(streams)
    compiled = engine._step
    compiled(*arguments)
    mark(MARK, 1, 0)
    for _ in range(steps):
        compiled(*arguments)
    mark(MARK, 2, 0)


main()
