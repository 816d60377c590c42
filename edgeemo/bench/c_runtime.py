"""The C runtime against Python's: memory, start and cost of a step of 8 calls among 80, on this machine; and modelled for a board
where a72cost is.

python -m edgeemo.bench.c_runtime NAME:ARTIFACT[:BOARD_ARTIFACT]... [--a72cost DIR] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.bench import modelled
from edgeemo.compile.codegen.c_library import SOURCES
from edgeemo.console import show_table

HERE = Path(__file__).parent
RUNTIME = HERE.parents[1] / "runtime"
STREAMS = 8
FLAGS = ("-std=c99", "-O2", "-ffp-contract=off")


def build(out: Path, *compiler: str) -> Path:
    """c_cost.c with the library in it. Raises EdgeEmoError if that fails."""
    source = next((folder for folder in SOURCES if folder.is_dir()), SOURCES[0])
    files = [HERE / "c_cost.c", source / "vendor" / "monocypher_edgeemo.c"]
    command = [*compiler, *FLAGS, "-I", source / "src", "-I", source / "include", "-o", out, *files, "-lm"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgeEmoError(f"{files[0]}: does not compile ({done.stderr.strip()[:300]})")
    return out


def _figures(command: list[str]) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(RUNTIME), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise EdgeEmoError(f"{command[0]}: {done.stderr.strip()[-300:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def on_this_machine(artifact: Path, program: Path) -> dict[str, dict[str, float]]:
    """Figures of ``artifact`` by runtime: ready_ms (processor time until the first answer), step_ms and compiled_ms of 8 streams,
    resident_mb of 80."""
    return {
        "Python": _figures([sys.executable, str(HERE / "python_cost.py"), str(artifact)]),
        "C": _figures([str(program), str(artifact)]),
    }


def on_the_board(tool: Path, artifact: Path, program: Path) -> dict[str, float]:
    """Modelled cycles of 8 streams' step, alone and with each runtime around it."""
    arguments = [str(artifact.resolve()), "{}", str(STREAMS), str(modelled.STEPS), str(modelled.WARM_UP)]

    def c(what: str) -> float:
        return modelled.run(tool, program, [a.format(what) for a in arguments], None, modelled.STEPS, "cortex-a72", "a72run").real

    python = modelled.measure(tool, artifact, STREAMS, "engine").real
    return {
        "compiled": c("step"),
        "C": c("engine"),
        "compiled_in_python": modelled.measure(tool, artifact, STREAMS).real,
        "Python": python,
    }


def rows(name: str, found: dict[str, Any]) -> list[list[str]]:
    """Lines of the table: model, figure, Python, C."""
    python, c = found["host"]["Python"], found["host"]["C"]
    lines = [
        ["resident, at most, 80 calls (MB)", f"{python['resident_mb']:.1f}", f"{c['resident_mb']:.1f}"],
        ["ready: until the first answer (ms)", f"{python['ready_ms']:.0f}", f"{c['ready_ms']:.1f}"],
        ["step of 8 calls (ms)", f"{python['step_ms']:.2f}", f"{c['step_ms']:.2f}"],
        ["over the compiled step", *(f"x {f['step_ms'] / f['compiled_ms']:.3f}" for f in (python, c))],
    ]
    if board := found.get("modelled"):
        lines.append(["Cortex-A72, modelled: step (M cycles)", *(f"{board[n] / 1e6:.2f}" for n in ("Python", "C"))])
        over = board["Python"] / board["compiled_in_python"], board["C"] / board["compiled"]
        lines.append(["Cortex-A72, modelled: over the compiled step", *(f"x {value:.3f}" for value in over)])
    return [[name, *line] for line in lines]


def main() -> int:
    """Exit code: 1, and a line, where something does not build or run."""
    parser = argparse.ArgumentParser(prog="python -m edgeemo.bench.c_runtime", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME:ARTIFACT[:BOARD_ARTIFACT]")
    parser.add_argument("--a72cost", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    document: dict[str, dict[str, Any]] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="edgeemo-bench-") as made:
            here = build(Path(made, "here"), "cc")
            zig = (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.31")
            board = build(Path(made, "board"), *zig) if given.a72cost else None
            for model in given.models:
                name, host, *rest = model.split(":")
                document[name] = {"host": on_this_machine(Path(host), here)}
                if board is not None and rest:
                    document[name]["modelled"] = on_the_board(given.a72cost, Path(rest[0]), board)
    except EdgeEmoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.out is not None:
        given.out.write_text(json.dumps(document, indent=1) + "\n")
    lines = [row for name, found in document.items() for row in rows(name, found)]
    show_table("edgeemo-runtime (Python) and libedgeemo (C)", ["model", "", "Python", "C"], lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
