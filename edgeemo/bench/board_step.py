"""A batch of streams (or of items, where nothing is streamed) through the compiled step, between two marker system calls.

    python board_step.py ARTIFACT STREAMS STEPS {step|engine} [WARM_UP]

``step`` marks the compiled step alone, ``engine`` whole calls of Engine.step. The markers
are what a72cost and the instruction counter of tests/aarch64 look for: syscall(0x7a72, 1) and syscall(0x7a72, 2).
Imported for timing on this machine; run as a file on the (emulated) board, where nothing of edgeemo is but the runtime.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from edgeemo_runtime import Engine, Function
from edgeemo_runtime.artifact import load_artifact
from edgeemo_runtime.model import Model

MARK = 0x7A72


def steps_of(artifact: str, most: int) -> Callable[[int], Callable[[], Any]]:
    """By number of streams, ``most`` at most: the compiled step on noise."""
    loaded, noise = load_artifact(artifact), np.random.default_rng(0)
    if loaded.manifest["stream"] is None:
        function = Function(loaded)
        return lambda n: function.bound(n, noise)
    model = Model(loaded, most)
    model.audio[:] = 0.1 * noise.standard_normal(model.audio.shape)
    return lambda n: model.bound(np.arange(n))


def main() -> None:
    artifact, streams, steps, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    warm_up = int(sys.argv[5]) if len(sys.argv) > 5 else 3
    mark = ctypes.CDLL(None).syscall
    if what == "engine":
        engine, noise = Engine(artifact, streams), np.random.default_rng(0)
        calls = [engine.open() for _ in range(streams)]

        def run() -> None:
            engine.step()

        def prepare() -> None:
            for call in calls:
                call.push((0.1 * noise.standard_normal(engine.samples_per_step)).astype(np.float32))
    else:
        run = steps_of(artifact, streams)(streams)

        def prepare() -> None:
            pass

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
    # Ends here: the interpreter's own end unmaps the artifact's library, and a72cost reads the process's map after that.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
