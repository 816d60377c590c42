"""Targets that `edgeemo compile` knows, as a board needs them: which fit a machine, and which fits it best.

The board has no target files; a test holds this list to them (tests/runtime/test_doctor.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

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
