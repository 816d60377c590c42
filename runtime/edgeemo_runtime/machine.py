"""Extensions of this machine's processor: a virtual machine may hide some that its processor's name promises, and a file for a
newer ARM core dies of an illegal instruction on an older one."""

from __future__ import annotations

import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Extensions that LLVM uses unasked where the processor's name has them, by LLVM's spelling; the rest of x86-64 nobody hides.
VECTORS = re.compile(r"avx.*|fma|f16c|gfni|vaes|vpclmulqdq|bmi2?")
KERNEL_SPELLING = {"bmi1": "bmi"}  # and underscores: avx512_vnni
AT_HWCAP, AT_HWCAP2 = 16, 26  # keys of the auxiliary vector (linux/auxvec.h)
# AArch64: LLVM's spelling, the key, and the bits that must be set there (arch/arm64/include/uapi/asm/hwcap.h). /proc/cpuinfo has
# the same facts as words, but under qemu-user those are the host's.
HWCAPS = {
    "aes": (AT_HWCAP, 1 << 3),
    "sha2": (AT_HWCAP, 1 << 5 | 1 << 6),
    "crc": (AT_HWCAP, 1 << 7),
    "lse": (AT_HWCAP, 1 << 8),
    "fullfp16": (AT_HWCAP, 1 << 9 | 1 << 10),
    "rdm": (AT_HWCAP, 1 << 12),
    "jsconv": (AT_HWCAP, 1 << 13),
    "complxnum": (AT_HWCAP, 1 << 14),
    "rcpc": (AT_HWCAP, 1 << 15),
    "sha3": (AT_HWCAP, 1 << 17 | 1 << 21),
    "sm4": (AT_HWCAP, 1 << 18 | 1 << 19),
    "dotprod": (AT_HWCAP, 1 << 20),
    "sve": (AT_HWCAP, 1 << 22),
    "fp16fml": (AT_HWCAP, 1 << 23),
    "sve2": (AT_HWCAP2, 1 << 1),
    "i8mm": (AT_HWCAP2, 1 << 13),
    "bf16": (AT_HWCAP2, 1 << 14),
}
# The target that runs on every machine of a kind; elsewhere the one that is made there.
MIN_TARGETS = {"aarch64": "aarch64-neon"}


def is_checked(extension: str) -> bool:
    """Whether this kind of machine tells of an extension, by LLVM's spelling."""
    return extension in HWCAPS if platform.machine() == "aarch64" else VECTORS.fullmatch(extension) is not None


def extensions() -> frozenset[str] | None:
    """Extensions of x86-64 or AArch64 that this processor has, as LLVM spells them; None on a machine that does not say."""
    if platform.machine() == "aarch64":
        words = {key: auxiliary_value(key) for key in (AT_HWCAP, AT_HWCAP2)}
        return frozenset(name for name, (key, bits) in HWCAPS.items() if words[key] & bits == bits) if words[AT_HWCAP] else None
    try:
        text = CPUINFO.read_text()
    except OSError:
        return None
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if flags is None:
        return None
    names = (KERNEL_SPELLING.get(flag, flag.replace("_", "")) for flag in flags[1].split())
    return frozenset(name for name in names if VECTORS.fullmatch(name))


def auxiliary_value(key: int) -> int:
    """Value that the kernel gave this process at its start under a key of the auxiliary vector; 0 where nothing
    (getauxval(3))."""
    import ctypes

    try:
        get = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return 0
    get.restype, get.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return int(get(key))


def way_out() -> str:
    """The end of a refusal: which target to compile for."""
    least = MIN_TARGETS.get(platform.machine())
    return f"compile it for this one with --target {least}" if least else "compile it here with --target host"
