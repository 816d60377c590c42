"""Checks on the finished library: nothing undefined that a board does not have, no instruction its core does not have."""

from __future__ import annotations

import re
from pathlib import Path

import capstone
from edgeemo_runtime.errors import EdgeEmoError
from elftools.elf.elffile import ELFFile

from edgeemo.targets.board import BoardTarget

# TVM's ABI check raises through the first; LLVM makes the others of loops that copy or clear.
ALLOWED_UNDEFINED = {"TVMFFIErrorSetRaisedFromCStrParts", "memcpy", "memset", "memmove"}
MODES = {"arm64": (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)}


def undefined_symbols(library: Path) -> list[str]:
    with library.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        return sorted(s.name for s in table.iter_symbols() if s.name and s["st_shndx"] == "SHN_UNDEF")


def instructions(library: Path, target: BoardTarget):  # type: ignore[no-untyped-def]
    """(address, "mnemonic operands") of every instruction of the text section."""
    disassembler = capstone.Cs(*MODES[target.disassembler])
    disassembler.skipdata = True
    with library.open("rb") as file:
        text = ELFFile(file).get_section_by_name(".text")
        for address, _, mnemonic, operands in disassembler.disasm_lite(text.data(), text["sh_addr"]):
            yield address, f"{mnemonic} {operands}"


def verify_library(library: Path, target: BoardTarget) -> None:
    """Raises EdgeEmoError naming the first symbol or instruction that the target cannot resolve or run."""
    if foreign := [s for s in undefined_symbols(library) if s not in ALLOWED_UNDEFINED]:
        raise EdgeEmoError(
            f"the code for {target.name} needs {', '.join(foreign)}, which a board with the slim runtime does not have; "
            "an operator was lowered to a library call"
        )
    if target.disassembler == "none":
        return
    patterns = [(what, re.compile(p)) for what, p in target.forbidden.items()]
    for address, text in instructions(library, target):
        for what, pattern in patterns:
            if pattern.search(text):
                raise EdgeEmoError(f"the code for {target.name} has {text!r} at {address:#x}: {what}; {target.cpu} cannot run it")
