"""Object code to a shared library without a cross toolchain: lld from the PyPI package ziglang, for any target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.targets.board import BoardTarget

KERNEL = "kernel_"  # before the names of kernels that are functions of their own


def assemble(assembly: str, objects: Path, target: BoardTarget) -> None:
    """Assembly to an object file, by the clang in ziglang. Its only input is text that LLVM has just written."""
    source = objects.with_suffix(".s")
    # Else the assembler takes no instruction beyond ARMv8.0: LLVM writes no directive for what its target has.
    source.write_text(f".cpu {target.cpu}\n{assembly}" if target.machine == "aarch64" else assembly)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{target.machine}-linux-gnu", "-c", "-o"]
    done = subprocess.run([*command, str(objects), str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgeEmoError(f"assembling for {target.name} failed: {done.stderr.strip()[:500] or 'is ziglang installed?'}")


def link_shared(objects: Path, library: Path, target: BoardTarget) -> None:
    """Links one object file to ``library``. Its symbols stay (7 kB), so that a profile can name kernels, but no other library
    sees those; undefined ones are the loader's (compile/codegen/verify.py checks them)."""
    visible = objects.with_suffix(".map")
    visible.write_text(f"{{ local: {KERNEL}*; }};\n")
    command = [sys.executable, "-m", "ziglang", "ld.lld", "-m", target.linker, "-shared", "--strip-debug", "--gc-sections",
               f"--version-script={visible}", "-o"]  # fmt: skip
    done = subprocess.run([*command, str(library), str(objects)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgeEmoError(f"linking for {target.name} failed: {done.stderr.strip()[:500] or 'is ziglang installed?'}")
