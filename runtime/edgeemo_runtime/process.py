"""One core, one thread, for real: asked of the libraries before they load, asserted after."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from edgeemo_runtime.errors import EdgeEmoError

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
TASKS = Path("/proc/self/task")

if "numpy" not in sys.modules:  # numpy's BLAS starts a thread per core while it is imported, unless told before
    for variable in VARIABLES:
        os.environ.setdefault(variable, "1")


def threads() -> int:
    """Threads of this process; 1 where the system does not say."""
    return len(list(TASKS.iterdir())) if TASKS.is_dir() else 1


_AT_START = threads()  # more than one under qemu, whose own threads show


def bind_core(cpu: int) -> None:
    """Binds this process to one core. Raises EdgeEmoError if there is no such core to have."""
    try:
        os.sched_setaffinity(0, {cpu})
    except (OSError, AttributeError) as error:
        raise EdgeEmoError(f"cpu {cpu}: this process cannot be bound to it ({error})") from error


def set_fifo_priority(priority: int) -> None:
    """Puts this process before all ordinary ones (SCHED_FIFO, 1 to 99): what else the machine does then waits for a step, not a
    step for it. Raises EdgeEmoError where that is not allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        raise EdgeEmoError(
            f"priority {priority}: this process cannot have it ({error}); run it as root, or with CAP_SYS_NICE or an rtprio limit"
        ) from error


def bind_process(cpu: int, priority: int) -> None:
    """On that core unless it is negative, with that priority unless it is 0. Raises EdgeEmoError where it cannot be had."""
    if cpu >= 0:
        bind_core(cpu)
    if priority:
        set_fifo_priority(priority)


def reset_scheduling() -> None:
    """Gives up the parent's place on the machine, in a child: any core, and no priority over ordinary processes."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def without_openssl() -> None:
    """hashlib takes Python's own SHA-256, enough for an artifact's checks, and not OpenSSL, of which 3.4 MB would stay resident.
    For a process of our own, before anything has imported hashlib: another's may want all that OpenSSL has."""
    if any(find_spec(name) for name in ("_sha2", "_sha256")):  # Python's own; some builds leave it out
        sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type]  # so that importing it fails


def with_openssl() -> None:
    """Takes that back, in a process that ends soon: OpenSSL's SHA-256 is six times as quick."""
    if "_hashlib" in sys.modules and sys.modules["_hashlib"] is None:
        del sys.modules["_hashlib"]
        sys.modules.pop("hashlib", None)


def freeze_gc() -> None:
    """Freezes the objects that are there now: the garbage collector does not walk all of it in the middle of a step any more. For
    processes that answer in time, once everything is loaded."""
    gc.collect()
    gc.freeze()


def assert_single() -> None:
    """Raises EdgeEmoError if anything has started a thread since this module was imported."""
    if (count := threads()) > _AT_START:
        raise EdgeEmoError(
            f"{count - _AT_START} threads were started where there should be none: a library was imported before edgeemo_runtime "
            f"could set {VARIABLES[0]}=1; set it in the environment"
        )
