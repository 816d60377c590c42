"""Boards as data: one TOML file each in targets/. Adding a board is adding a file."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeemo_runtime.documents import read_toml
from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.machine import extensions, is_checked

from edgeemo.targets.capabilities import MICROKERNELS

if TYPE_CHECKING:
    import tvm

# In a checkout the folder stands next to the package; a wheel carries it inside.
FOLDERS = (Path(__file__).parents[2] / "targets", Path(__file__).parent / "boards")
PREFETCHES = ("load", "prfm")  # a load to the zero register; ARM's own, which does not hold up what follows it
ORDERS = ("written", "llvm")  # as kernels write them, between barriers; as LLVM's model of the core schedules them
ISAS = ("neon", "portable")
EMULATIONS = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux"}


@dataclass(frozen=True)
class KernelTarget:
    """The part of a board that kernels are built for."""

    neon: bool  # NEON's own instructions, or any vector unit's
    microkernels: tuple[str, ...]  # names of compile/kernels/microkernels, most wanted first
    tiles: dict[str, tuple[int, int]]  # rows x columns of a matrix product's tile by weight type: s8, f16, f32
    block_bytes: int  # weights that stay in L1 while rows pass by
    prefetch_distance_bytes: int  # distance of a prefetch of weights before their use; 0: left to the core's prefetcher
    prefetch: str = "load"  # by which instruction, of PREFETCHES
    order: str = "written"  # of instructions, of ORDERS

    def tile(self, kind: str, microkernel: str = "") -> tuple[int, int]:
        """Rows x columns of a product's tile: the micro-kernel's own where it has one."""
        own = MICROKERNELS[microkernel].tile if microkernel else None
        return own or self.tiles[kind]


@dataclass(frozen=True)
class BoardTarget:
    """A board: its core, how its code is linked and checked, and its kernels' parameters."""

    name: str
    description: str
    machine: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    linker: str
    disassembler: str
    forbidden: dict[str, str]
    kernels: KernelTarget
    macs_per_cycle: dict[str, float] = field(default_factory=dict)  # by precision, modelled; none where nobody has
    names: tuple[str, ...] = ()  # boards that have it, as people call them: --target takes them, too
    recipe: str = ""  # by which models for it are quantized where nothing else is said; empty: the package's default
    cores: int = 0  # of such a board; 0: not said
    mhz: int = 0  # clock of a core; 0: not said
    needs: tuple[str, ...] = ()  # extensions beyond the least of its machine, by LLVM's names, for the runtime to check

    def tvm_target(self, llvm_options: Sequence[str] = ()) -> tvm.target.Target:
        """``llvm_options``: of LLVM's command line, "-NAME:TYPE=VALUE"."""
        import tvm

        values: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if self.features:
            values["mattr"] = list(self.features)
        if llvm_options:
            values["cl-opt"] = list(llvm_options)
        return tvm.target.Target(values)


def target_names() -> list[str]:
    return sorted({p.stem for folder in FOLDERS for p in folder.glob("*.toml")})


def target_aliases() -> dict[str, str]:
    """Names of boards, and the target of each. A file that is not sound has none; load_target says what is wrong with it."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.toml")):
            with suppress(EdgeEmoError):
                found |= {str(name): path.stem for name in read_toml(path).get("names", ())}
    return found


def target_recipe(name: str) -> str:
    """Name of the recipe that suits a target, "" where its file names none. Without TVM, which the host's other facts need."""
    name = target_aliases().get(name, name)
    return str(next((read_toml(p).get("recipe", "") for f in FOLDERS if (p := f / f"{name}.toml").is_file()), ""))


def load_target(name: str) -> BoardTarget:
    """A target by its name or a board's. Raises EdgeEmoError listing the targets if there is none of that name, or naming the key
    a file lacks."""
    name = target_aliases().get(name, name)
    path = next((f / f"{name}.toml" for f in FOLDERS if (f / f"{name}.toml").is_file()), None)
    if path is None:
        raise EdgeEmoError(f"no target {name!r}; there are: {', '.join([*target_names(), *target_aliases()])}")
    values = read_toml(path)
    try:
        values |= {"features": tuple(values["features"]), "kernels": _kernels(**values["kernels"])}
        values |= {key: tuple(values.get(key, ())) for key in ("needs", "names")}
        if values["machine"] == "native":
            values |= _this_machine()
        return BoardTarget(name=name, **values)
    except (TypeError, KeyError, ValueError) as error:
        raise EdgeEmoError(f"{path}: not a target file ({first_line(error)})") from error


def _this_machine() -> dict[str, Any]:
    """The keys of a target file that only this machine knows. The one place here that needs TVM: LLVM names the processor."""
    from tvm.target import codegen

    machine = platform.machine()
    if machine not in EMULATIONS:
        raise EdgeEmoError(f"target host: no linker emulation known for this machine ({machine})")
    triple = codegen.llvm_get_system_triple().replace("-conda-", "-")
    cpu = codegen.llvm_get_system_cpu()
    known = {"machine": machine, "triple": triple, "cpu": cpu, "linker": EMULATIONS[machine]}
    return known | _extensions(triple, cpu)


def _extensions(triple: str, cpu: str) -> dict[str, tuple[str, ...]]:
    """Extensions that LLVM takes from the processor's name: those that are here, and those to switch off. Without this a
    Zen 4 whose hypervisor hides AVX-512 dies of an illegal instruction."""
    import tvm
    from tvm.target import codegen

    here = extensions()
    if here is None:
        return {}
    named = codegen.llvm_get_cpu_features(tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu}))
    promised = {str(name) for name in named if is_checked(str(name))}
    return {"needs": tuple(sorted(promised & here)), "features": tuple(f"-{name}" for name in sorted(promised - here))}


def _kernels(
    isa: str,
    microkernels: list[str],
    block_kib: int,
    prefetch_distance_bytes: int,
    tiles: dict[str, list[int]],
    prefetch: str = PREFETCHES[0],
    order: str = ORDERS[0],
) -> KernelTarget:
    if isa not in ISAS:
        raise ValueError(f"kernels.isa is {isa!r}, not {' or '.join(ISAS)}")
    if unknown := [name for name in microkernels if name not in MICROKERNELS]:
        raise ValueError(f"kernels.microkernels names {unknown[0]!r}; there are {', '.join(MICROKERNELS)}")
    if missing := {"s8", "f16", "f32"} - {MICROKERNELS[name].kind for name in microkernels if MICROKERNELS[name].plain}:
        raise ValueError(f"kernels.microkernels has none that takes any layer of {', '.join(sorted(missing))} weights")
    if prefetch_distance_bytes < 0 or prefetch_distance_bytes % 64:
        raise ValueError(f"kernels.prefetch_distance_bytes is {prefetch_distance_bytes}, not a multiple of 64")
    if prefetch not in PREFETCHES:
        raise ValueError(f"kernels.prefetch is {prefetch!r}, not {' or '.join(PREFETCHES)}")
    if order not in ORDERS:
        raise ValueError(f"kernels.order is {order!r}, not {' or '.join(ORDERS)}")
    sizes = {}
    for weights in ("f16", "f32"):
        rows, columns = tiles[weights]
        if rows % 4 or columns % 4 or not 0 < rows * columns <= 64:
            raise ValueError(f"kernels.tiles.{weights} is {rows} x {columns}, not multiples of 4 with at most 64 sums")
        sizes[weights] = (rows, columns)
    return KernelTarget(
        isa == "neon", tuple(microkernels), {"s8": (4, 4), **sizes}, block_kib * 1024, prefetch_distance_bytes, prefetch, order
    )
