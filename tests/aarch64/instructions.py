"""Deterministic figures of the board's artifact: instructions per step, code size, undefined symbols. Accepted ones are in
accepted.json; after a change that is meant, `python -m tests.aarch64.instructions` writes it anew."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

from edgeemo.compile.codegen.verify import undefined_symbols
from tests.aarch64 import board

HERE = Path(__file__).parent
ACCEPTED = HERE / "accepted.json"
SCRIPT = HERE.parents[1] / "edgeemo" / "bench" / "board_step.py"
STREAMS = (1, 3, 8, 16)
STEPS = 2


def plugin() -> Path:
    """The counter, built once into build/aarch64."""
    library = board.HOME / "count_instructions.so"
    source = HERE / "count_instructions.c"
    if not library.is_file() or library.stat().st_mtime < source.stat().st_mtime:
        command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True, capture_output=True)
    return library


def instructions_per_step(artifact: Path, streams: int) -> int:
    """Guest instructions of one batched step, Python's two or three thousand around it included."""
    arguments = [str(SCRIPT), str(artifact), str(streams), str(STEPS), "step"]
    done = board.run(arguments, emulator=["-plugin", str(plugin())])
    found = re.search(rb"instructions=(\d+)", done.stderr)
    assert done.returncode == 0 and found, done.stderr.decode()
    return int(found[1]) // STEPS


def measure(artifact: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(artifact) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".so"))
        library = Path(archive.extract(name, folder))
        with library.open("rb") as file:
            text = ELFFile(file).get_section_by_name(".text")["sh_size"]
        undefined = undefined_symbols(library)
    return {
        "instructions_per_step": {str(n): instructions_per_step(artifact, n) for n in STREAMS},
        "code_bytes": text,
        "undefined_symbols": undefined,
    }


if __name__ == "__main__":
    built = Path("build/emotion-aarch64-neon.edgeemo")
    ACCEPTED.write_text(json.dumps(measure(built), indent=1) + "\n")
    print(ACCEPTED.read_text())
