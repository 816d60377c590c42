"""Features of this machine's processor: a virtual machine may hide extensions that its processor's name promises."""

from __future__ import annotations

import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Extensions that LLVM uses unasked where the processor's name has them, by LLVM's spelling; the rest of x86-64 nobody hides.
VECTORS = re.compile(r"avx.*|fma|f16c|gfni|vaes|vpclmulqdq|bmi2?")
KERNEL_SPELLING = {"bmi1": "bmi"}  # and underscores: avx512_vnni


def vector_extensions() -> frozenset[str] | None:
    """Vector extensions of x86, as LLVM spells them; None on a machine that does not say."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        return None
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if flags is None:
        return None
    names = (KERNEL_SPELLING.get(flag, flag.replace("_", "")) for flag in flags[1].split())
    return frozenset(name for name in names if VECTORS.fullmatch(name))
