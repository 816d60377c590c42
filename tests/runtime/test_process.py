"""A process's place among others: the core it stays on and what it goes before."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os
from edgeemo_runtime import EdgeEmoError
from edgeemo_runtime import process
core = max(os.sched_getaffinity(0))
try:
    process.bind_process(core, 5)
    print(os.sched_getaffinity(0) == {core}, os.sched_getscheduler(0) == os.SCHED_FIFO, os.sched_getparam(0).sched_priority)
except EdgeEmoError as error:
    print(error)
"""


def test_takes_its_place_or_says_why_not() -> None:
    """In a process of its own. Only root, or whoever has the right, goes before others."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True, timeout=60, text=True)
    allowed = os.geteuid() == 0 and not done.stdout.startswith("priority 5")  # a container's root may lack the right
    assert done.stdout.strip() == "True True 5" if allowed else "CAP_SYS_NICE" in done.stdout
