"""An emulated Cortex-A72, or another core, with the runtime wheel installed, from build/aarch64 (`make qemu`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import ROOT

HOME = ROOT / "build" / "aarch64"
PYTHON = HOME / "root/usr/bin/python3.11"
REASON = "no emulated board: `make qemu` installs qemu-user and an aarch64 Python (root, Debian 12)"


def available() -> bool:
    return shutil.which("qemu-aarch64") is not None and PYTHON.exists() and (HOME / "site").is_dir()


def run(
    arguments: list[str], stdin: bytes = b"", emulator: list[str] | None = None, cpu: str = "cortex-a72"
) -> subprocess.CompletedProcess[bytes]:
    """Runs the board's Python with ``arguments``; the environment is the board's own. ``emulator``: options of qemu's."""
    library_path = HOME / "root/usr/lib/aarch64-linux-gnu"
    guest = {"PYTHONPATH": HOME / "site", "LD_LIBRARY_PATH": library_path, "OMP_NUM_THREADS": "1"}
    options = [o for name, value in guest.items() for o in ("-E", f"{name}={value}")]
    command = [
        "qemu-aarch64",
        "-cpu",
        cpu,
        *(emulator or []),
        "-L",
        str(HOME / "root"),
        *options,
        str(PYTHON),
        *arguments,
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LD_"))}
    return subprocess.run(command, input=stdin, capture_output=True, timeout=600, check=False, env=environment)


def script(path: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return run([str(path), *arguments])
