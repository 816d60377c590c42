"""libedgeemo built from runtime/c as the tests need it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "runtime" / "c"
ZIG = f"{sys.executable} -m ziglang"


def build(folder: Path, *flags: str, compiler: str = "cc") -> Path:
    """libedgeemo.so from this tree."""
    command = ["make", "-s", "-C", str(SOURCE), f"OUT={folder}", f"CC={compiler}", f"CFLAGS={' '.join(flags) or '-O2'}"]
    subprocess.run([*command, f"{folder}/libedgeemo.so"], check=True, env={**os.environ, "MAKEFLAGS": ""})
    return folder / "libedgeemo.so"


def build_for_board(folder: Path) -> Path:
    """libedgeemo.so for the emulated board's Debian 12."""
    return build(folder, compiler=f"{ZIG} cc -target aarch64-linux-gnu.2.36")
