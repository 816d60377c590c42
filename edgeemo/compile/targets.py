"""Boards as data: one TOML file each in targets/. Adding a board is adding a file."""

from __future__ import annotations

import platform
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from edgeemo_runtime.errors import EdgeEmoError
from tvm.target import codegen

# In a checkout the folder stands beside the package; a wheel carries it inside.
FOLDERS = (Path(__file__).parents[2] / "targets", Path(__file__).parents[1] / "targets")
EMULATIONS = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux"}


@dataclass(frozen=True)
class BoardTarget:
    name: str
    description: str
    machine: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    linker: str
    disassembler: str
    forbidden: dict[str, str]
    kernels: dict[str, str]

    @property
    def neon(self) -> bool:
        return self.kernels["s8"] == "neon"

    def tvm_target(self) -> tvm.target.Target:
        values: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if self.features:
            values["mattr"] = list(self.features)
        return tvm.target.Target(values)


def target_names() -> list[str]:
    return sorted({p.stem for folder in FOLDERS for p in folder.glob("*.toml")})


def load_target(name: str) -> BoardTarget:
    """Raises EdgeEmoError listing the targets if there is none of that name, or naming the key a file lacks."""
    path = next((f / f"{name}.toml" for f in FOLDERS if (f / f"{name}.toml").is_file()), None)
    if path is None:
        raise EdgeEmoError(f"no target {name!r}; there are: {', '.join(target_names())}")
    try:
        values = tomllib.loads(path.read_text())
        values = {**values, "features": tuple(values["features"])}
        if values["machine"] == "native":
            machine = platform.machine()
            if machine not in EMULATIONS:
                raise EdgeEmoError(f"target host: no linker emulation known for this machine ({machine})")
            triple = codegen.llvm_get_system_triple().replace("-conda-", "-")
            values |= {"machine": machine, "triple": triple, "cpu": codegen.llvm_get_system_cpu(), "linker": EMULATIONS[machine]}
        return BoardTarget(name=name, **values)
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise EdgeEmoError(f"{path}: not a target file ({error})") from error
