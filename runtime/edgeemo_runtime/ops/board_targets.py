"""Targets that `edgeemo compile` knows, as a board needs them: which fit a machine, and which fits it best.

The board has no target files; a test holds this list to them (tests/runtime/test_doctor.py). A target that is not in it is
neither offered nor preferred, and runs where the kernel has what it needs.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeemo_runtime.artifact import unchecked
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.machine import extensions
from edgeemo_runtime.members import read_members
from edgeemo_runtime.ops.board_facts import read_board

IN_ORDER = ("Cortex-A35", "Cortex-A53")  # and without dot products: cores that run instructions in the order of the code


@dataclass(frozen=True)
class KnownTarget:
    """A target: the machine (`uname -m`) and the extensions that its artifacts need. ``cores``: those it is scheduled for, where
    another of the same extensions is for the rest."""

    name: str
    machine: str
    needs: tuple[str, ...] = ()
    cores: tuple[str, ...] = ()


TARGETS = (
    KnownTarget("aarch64-neon", "aarch64"),
    KnownTarget("pi3", "aarch64", cores=IN_ORDER),
    KnownTarget("pi5", "aarch64", ("crc", "dotprod", "fullfp16", "lse", "rcpc", "rdm")),
)


def fitting(machine: str, extensions: Collection[str] | None, cores: Collection[str]) -> list[str]:
    """Names of targets whose artifacts run here, best first: host's where there is none but that made on the machine itself.

    The more of the processor's extensions one uses the better; of equals the one that is scheduled for such a core.
    """
    able = [t for t in TARGETS if t.machine == machine and set(t.needs) <= set(extensions or ())]

    def rank(target: KnownTarget) -> tuple[int, int]:
        suits = 1 if not target.cores else 2 if set(target.cores) & set(cores) else 0
        return -len(target.needs), -suits

    return [t.name for t in sorted(able, key=rank)] + (["host"] if machine == "x86_64" else [])


def best_artifact(paths: Sequence[Path]) -> Path:
    """The one of several artifacts of a model that fits this machine best; a single one as it is, for the loader to judge.

    Raises EdgeEmoError where one cannot be read, or none fits.
    """
    if len(paths) == 1:
        return paths[0]
    here, cores = extensions() or frozenset(), {c.name for c in read_board(ask_firmware=lambda: "").cores}
    order = fitting(platform.machine(), here, cores)
    targets = {path: unchecked(read_members(path)).manifest["target"] for path in paths}
    able = [p for p, t in targets.items() if t["machine"] == platform.machine() and set(t.get("needs", ())) <= here]
    if not able:
        have = ", ".join(f"{p} ({t['name']})" for p, t in targets.items())
        raise EdgeEmoError(f"none of {have} runs on this machine; compile for {' or '.join(order) or 'it'}")

    def rank(path: Path) -> tuple[int, int]:
        name = targets[path]["name"]
        return order.index(name) if name in order else len(order), -len(targets[path].get("needs", ()))

    return min(able, key=rank)
