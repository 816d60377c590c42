"""Rewrites LLVM's assembly: labels kernels for profiles, strips scheduling barriers, chooses the prefetch instruction.

LLVM keeps some kernels as functions and works others into the step, so that a function's symbol is not enough.
"""

from __future__ import annotations

import re

FIRST_HINT, BASE = 48, 40  # of twice 40 hint instructions that no core gives a meaning: digits before the last, last digits

REPEATED = re.compile(r"(_[a-z_]+?)\d*(?:\1\d*)+(?=_|$)")


def hints_of_call(number: int) -> list[int]:
    """The hints in front of a call: its number's digits, the last from the upper half."""
    hints = [FIRST_HINT + BASE + number % BASE]
    while number := number // BASE:
        hints.insert(0, FIRST_HINT + number % BASE)
    return hints


def mark_calls(assembly: str, calls: list[str], prefetch: str = "load") -> str:
    """The step's assembly without fences and with a local symbol ``partNNN_<kernel>`` for the hints of each call. LLVM may copy a
    call: NNN counts places. What is fused many times over is named once. With ``prefetch`` "load" prefetches become loads to the
    zero register, which is the target's choice (targets/*.toml)."""
    count = number = 0

    def symbol(match: re.Match[str]) -> str:
        nonlocal count, number
        last, digit = divmod(int(match[1], 0) - FIRST_HINT, BASE)
        number = number * BASE + digit
        if not last:
            return ""
        kernel = REPEATED.sub(r"\1", calls[number])
        count, number = count + 1, 0
        name = f"part{count:03}_{kernel}"
        return f"\t.type\t{name},@function\n{name}:\n"

    assembly = re.sub(r"^\tcsdb$\n?", "", assembly, flags=re.M)
    assembly = re.sub(r"^\thint\t#(\w+)$\n?", symbol, assembly, flags=re.M)
    if prefetch == "load":
        assembly = re.sub(r"^\tprf(u?)m\tpldl1keep, ", r"\tld\1r\txzr, ", assembly, flags=re.M)  # PRFUM: LDUR
    return assembly.replace(".L_internal_", "kernel_")
