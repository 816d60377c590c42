"""Object code to a shared library without a cross toolchain: lld from the PyPI package ziglang, for any target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.compile.targets import BoardTarget


def link_shared(objects: Path, library: Path, target: BoardTarget) -> None:
    """Links one object file to ``library``, stripped; undefined symbols are the loader's (compile/verify.py checks them)."""
    command = [sys.executable, "-m", "ziglang", "ld.lld", "-m", target.linker, "-shared", "-s", "--gc-sections", "-o"]
    done = subprocess.run([*command, str(library), str(objects)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgeEmoError(f"linking for {target.name} failed: {done.stderr.strip()[:500] or 'is ziglang installed?'}")
