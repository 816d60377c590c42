"""Finishes LLVM's assembly: strips scheduling barriers, chooses the prefetch instruction."""

from __future__ import annotations

import re


def finish(assembly: str, prefetch: str = "load") -> str:
    """The step's assembly without fences (Builder.scheduling_barrier). With ``prefetch`` "load" prefetches become loads to the
    zero register, which is the target's choice (targets/*.toml)."""
    assembly = re.sub(r"^\tcsdb$\n?", "", assembly, flags=re.M)
    if prefetch == "load":
        assembly = re.sub(r"^\tprf(u?)m\tpldl1keep, ", r"\tld\1r\txzr, ", assembly, flags=re.M)  # PRFUM: LDUR
    return assembly
