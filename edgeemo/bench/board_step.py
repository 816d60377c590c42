"""Run on the (emulated) board, not imported: a batch of streams through the compiled step, between two marker system calls.

    python board_step.py ARTIFACT STREAMS STEPS {step|engine} [WARM_UP]

``step`` marks the compiled step alone, ``engine`` whole calls of Engine.step. The markers
are what a72cost and the instruction counter of tests/aarch64 look for: syscall(0x7a72, 1) and syscall(0x7a72, 2).
"""

import ctypes
import sys

import numpy as np
from edgeemo_runtime import Engine
from edgeemo_runtime.model import Model

MARK = 0x7A72


def main() -> None:
    artifact, streams, steps, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    warm_up = int(sys.argv[5]) if len(sys.argv) > 5 else 3
    mark = ctypes.CDLL(None).syscall
    noise = np.random.default_rng(0)
    if what == "engine":
        engine = Engine(artifact, streams)
        calls = [engine.open() for _ in range(streams)]

        def run() -> None:
            engine.step()

        def prepare() -> None:
            for call in calls:
                call.push((0.1 * noise.standard_normal(engine.samples_per_step)).astype(np.float32))
    else:
        model = Model(artifact, streams)
        run = model.bound(np.arange(streams))

        def prepare() -> None:
            model.audio[:] = 0.1 * noise.standard_normal(model.audio.shape)

    for _ in range(warm_up):
        prepare()
        run()
    # As many steps as fit the backlog are prepared before, so that only steps lie between the markers.
    for _ in range(steps):
        prepare()
    mark(MARK, 1, 0)
    for _ in range(steps):
        run()
    mark(MARK, 2, 0)


main()
