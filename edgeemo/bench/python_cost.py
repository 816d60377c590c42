"""The Python runtime's costs for the work of c_cost.c: python python_cost.py ARTIFACT prints processor times (the least of many)
and resident memory of 80 calls, as JSON. A process of its own, with nothing of edgeemo but the runtime."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from edgeemo_runtime import process

CALLS, BATCH, ROUNDS = 80, 8, 20


def main(artifact: str) -> None:
    process.without_openssl()  # as edgeemo-run does
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # tvm_ffi would import it; no board has it
    from edgeemo_runtime import Engine  # late, for both

    engine = Engine(artifact, CALLS)
    streams = [engine.open() for _ in range(CALLS)]
    samples = (np.arange(engine.samples_per_step) * 7919 % 4000 - 2000).astype(np.int16)
    for stream in streams[:BATCH]:
        stream.push(samples)
    engine.step()
    ready = time.process_time()
    whole = bare = float("inf")
    compiled = engine.model.bound(np.arange(BATCH))
    for _ in range(ROUNDS):
        for stream in streams:
            stream.push(samples)
        for _ in range(CALLS // BATCH):
            begun = time.process_time()
            engine.step(engine.ready()[0][:BATCH])
            stepped = time.process_time()
            compiled()
            whole, bare = min(whole, stepped - begun), min(bare, time.process_time() - stepped)
    # VmHWM, not getrusage: what that gives may be the process's that started this one.
    status = Path("/proc/self/status").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024
    figures = {"ready_ms": 1e3 * ready, "step_ms": 1e3 * whole, "compiled_ms": 1e3 * bare, "resident_mb": resident}
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
