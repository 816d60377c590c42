"""Modelled cost on a board's core by a72cost, where that tool is: cycles per step, and which kernel they go to."""

from __future__ import annotations

import bisect
import json
import os
import re
import subprocess
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgeemo_runtime.artifact import unchecked
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.members import read_members
from elftools.elf.elffile import ELFFile

from edgeemo.compile.codegen.link import KERNEL
from edgeemo.targets.board import load_target

SCRIPT = Path(__file__).parent / "board_step.py"
RUNTIME = Path(__file__).parents[2] / "runtime"
STEPS, WARM_UP = 2, 3
STEP_S = 0.16
REPEATED = re.compile(r"(_[a-z_]+?)\d*(?:\1\d*)+(?=_|$)")  # what is fused many times over is named once


@dataclass(frozen=True)
class Cost:
    """Cost of one batched step: instructions, cycles with a perfect cache, and with caches and DRAM; ``kernels``: shares of
    those."""

    instructions: float
    core: float
    real: float
    kernels: dict[str, float]


def measure(tool: Path, artifact: Path, streams: int, what: str = "step", steps: int = STEPS, warm_up: int = WARM_UP) -> Cost:
    """``what``: step (compiled code) or engine (Engine.step with its Python). The mean of ``steps``, after ``warm_up`` of them.
    Raises EdgeEmoError if the tool does not run."""
    arguments = [str(artifact.resolve()), str(streams), str(steps), what, str(warm_up)]
    return run(tool, SCRIPT, arguments, artifact, steps, unchecked(read_members(artifact)).manifest["target"]["cpu"])


def run(
    tool: Path, script: Path, arguments: list[str], artifact: Path | None, steps: int, core: str, runner: str = "a72py"
) -> Cost:
    """A script with markers around ``steps`` steps, on the emulated ``core`` (cortex-a72 or cortex-a76); an AArch64 program where
    ``runner`` is "a72run". ``artifact``: whose kernels to name in the shares."""
    tool = tool.resolve()
    with tempfile.TemporaryDirectory(prefix="edgeemo-bench-") as folder:
        name = Path(folder, "cost")
        command = [str(tool / "a72cost"), str(name), "-n", str(steps), "--", str(tool / runner), str(script), *arguments]
        environment = {**os.environ, "PP": str(RUNTIME), "CORE": core}
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tool, env=environment)
        except OSError as error:
            raise EdgeEmoError(f"{tool}: a72cost cannot be run ({error.strerror})") from error
        result = name.with_suffix(".json")
        if not result.is_file():
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no output"]
            raise EdgeEmoError(f"{tool}/a72cost failed ({reason[0][:200]}); has its ./setup been run?")
        figures = json.loads(result.read_text())
        shares = {} if artifact is None else _kernels(name.with_suffix(".sim"), artifact)
        return Cost(figures["insns"], figures["core"], figures["real"], shares)


def clock_mhz(target: str) -> int:
    """Clock of a target's boards. Raises EdgeEmoError where there is no such target, or its file does not say it."""
    mhz = load_target(target).mhz
    if not mhz:
        raise EdgeEmoError(f"target {target}: its file says no clock; cycles become seconds with `mhz` in it")
    return mhz


def streams_per_core(cycles_per_stream: float, mhz: int) -> int:
    """Streams whose steps of 160 ms take all of a core's time at ``mhz``."""
    return int(mhz * 1e6 * STEP_S / cycles_per_stream)


def _kernels(trace: Path, artifact: Path) -> dict[str, float]:
    """Share of the cycles by kernel, largest first; what is not the step's own code under its library's name.

    The trace has the host address and cycles of every block, and the process's map; the library's symbols name the kernels.
    """
    with zipfile.ZipFile(artifact) as archive, tempfile.TemporaryDirectory() as folder:
        library = next(n for n in archive.namelist() if n.endswith(".so"))
        with Path(archive.extract(library, folder)).open("rb") as file:
            elf = ELFFile(file)
            table = elf.get_section_by_name(".symtab")
            symbols = sorted((s["st_value"], s.name) for s in table.iter_symbols() if s["st_info"]["type"] == "STT_FUNC")
            segments = [(s["p_offset"], s["p_filesz"], s["p_vaddr"]) for s in elf.iter_segments("PT_LOAD")]
    starts = [address for address, _ in symbols]
    maps: list[tuple[int, int, int, str]] = []
    cycles: Counter[str] = Counter()
    for line in trace.read_text().splitlines():
        fields = line.split()
        if fields[0] == "M":
            first, last = (int(x, 16) for x in fields[1].split("-"))
            maps.append((first, last, int(fields[3], 16), fields[-1]))
        elif fields[0] == "B":
            at = int(fields[2], 16)
            cycles[_owner(at, maps, segments, starts, symbols)] += int(fields[6])
    total = sum(cycles.values())
    return {name: count / total for name, count in cycles.most_common()}


def _owner(at: int, maps: list, segments: list, starts: list[int], symbols: list[tuple[int, str]]) -> str:
    where = next((m for m in maps if m[0] <= at < m[1]), None)
    if where is None:
        return "?"
    name = where[3].rsplit("/", 1)[-1]
    if name != "(deleted)" and not name.startswith("step"):
        return name
    offset = at - where[0] + where[2]
    address = next((offset - start + virtual for start, size, virtual in segments if start <= offset < start + size), None)
    if address is None:
        return name
    symbol = symbols[bisect.bisect_right(starts, address) - 1][1]
    return REPEATED.sub(r"\1", symbol.removeprefix(KERNEL))
