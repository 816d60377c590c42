"""Facts of the machine that `edgeemo-run doctor` judges, from /proc and /sys as they are: what cannot be read is None or empty.

All files are read below a root folder, so that a test (or a copy of a board's files) stands in for the board. The extensions of
the processor come from the kernel's auxiliary vector (machine.py), which no file can replace.
"""

from __future__ import annotations

import os
import platform
import re
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeemo_runtime.machine import extensions

ARM = 0x41
# Main ID register (MIDR_EL1): implementer's byte is Arm's, bits 15 to 4 are the part (Arm's manuals; Linux' cputype.h).
PARTS = {
    0xC07: "Cortex-A7",
    0xC0F: "Cortex-A15",
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse V1",
    0xD41: "Cortex-A78",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD49: "Neoverse N2",
}
CAP_SYS_NICE = 1 << 23  # bit of CapEff in /proc/self/status (linux/capability.h)
FIRMWARE_FLAG = re.compile(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)")
MODELS = ("proc/device-tree/model", "sys/firmware/devicetree/base/model", "sys/class/dmi/id/product_name")
THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"  # Raspberry Pi's own kernels


@dataclass(frozen=True)
class Core:
    """A processor of the machine. Clocks in MHz; "" and None are what the kernel does not say."""

    cpu: int
    name: str
    governor: str = ""
    mhz: int | None = None
    most_mhz: int | None = None  # the core's own limit
    allowed_mhz: int | None = None  # the limit that is set


@dataclass(frozen=True)
class Limits:
    """Limits on this process. ``rtprio``: RLIMIT_RTPRIO. ``rt_runtime_us``: of all real-time processes per ``rt_period_us``, -1
    for no limit. ``group_cores``: cores' worth of time that the control group has, and ``group_bytes`` of memory."""

    rtprio: int | None = None
    may_nice: bool = False  # CAP_SYS_NICE
    rt_runtime_us: int | None = None
    rt_period_us: int | None = None
    group_rt_runtime_us: int | None = None  # of control groups of version 1: 0 refuses SCHED_FIFO to root as well
    group_cores: float | None = None
    group_bytes: int | None = None
    cpus: tuple[int, ...] = ()  # that this process may run on


@dataclass(frozen=True)
class Board:
    """A machine as its kernel describes it. ``throttled``: the bits of Raspberry Pi's firmware. ``heat_steps``: of cooling
    devices that slow the processor at this moment."""

    machine: str
    bits: int  # of this Python
    model: str
    cores: tuple[Core, ...]
    extensions: tuple[str, ...] | None
    emulated: bool
    memory_bytes: int | None
    celsius: float | None
    throttled: int | None
    under_voltage: bool
    heat_steps: int
    load: float | None
    limits: Limits


def _vcgencmd() -> str:
    """Answer of Raspberry Pi's tool, or "" where it is not there or not allowed."""
    try:
        done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def read_board(root: Path = Path("/"), ask_firmware: Callable[[], str] = _vcgencmd) -> Board:
    """The machine whose /proc and /sys lie below ``root``. Raises nothing: a file that is not there leaves its fact out.
    ``ask_firmware``: `vcgencmd get_throttled`, where no file says it."""
    machine, cpuinfo = platform.machine(), _text(root / "proc/cpuinfo")
    emulated = machine in ("aarch64", "armv7l") and "vendor_id" in cpuinfo  # qemu-user shows the host's /proc
    found = extensions()
    return Board(
        machine=machine,
        bits=8 * struct.calcsize("P"),
        model=next((text for m in MODELS if (text := _text(root / m).strip("\0\n "))), ""),
        cores=() if emulated else _cores(root, cpuinfo),
        extensions=None if found is None else tuple(sorted(found)),
        emulated=emulated,
        memory_bytes=_memory(root),
        celsius=_celsius(root),
        throttled=_throttled(_text(root / THROTTLED) or ask_firmware()),
        under_voltage=_under_voltage(root),
        heat_steps=_heat_steps(root),
        load=_number((_text(root / "proc/loadavg").split() or [""])[0]),
        limits=_limits(root),
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:1_000_000].decode(errors="replace")
    except OSError:
        return ""


def _integer(path: Path) -> int | None:
    try:
        return int(_text(path).strip() or "none", 0)
    except ValueError:
        return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _cores(root: Path, cpuinfo: str) -> tuple[Core, ...]:
    """Every processor of cpuinfo, by number; the clock from cpufreq where the kernel has it."""
    cores = []
    for block in re.split(r"\n\s*\n", cpuinfo):
        said = dict(re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", block, re.MULTILINE))
        if not said.get("processor", "").isdigit():
            continue
        cpu = int(said["processor"])
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        clocks = folder / "cpufreq"
        khz = {k: _integer(clocks / f) for k, f in (("mhz", "scaling_cur_freq"), ("most_mhz", "cpuinfo_max_freq"),
                                                    ("allowed_mhz", "scaling_max_freq"))}  # fmt: skip
        mhz = {k: None if v is None else round(v / 1000) for k, v in khz.items()}
        name = _core_name(_integer(folder / "regs/identification/midr_el1"), said)
        cores.append(Core(cpu, name, _text(clocks / "scaling_governor").strip(), **mhz))
    return tuple(cores)


def _core_name(midr: int | None, said: dict[str, str]) -> str:
    """Name of a core by its main ID register, or by the same numbers in cpuinfo; x86's own name; "" where nothing says it."""
    try:
        maker, part = int(said.get("CPU implementer", "none"), 0), int(said.get("CPU part", "none"), 0)
    except ValueError:
        if midr is None:
            return said.get("model name", "").strip()
        maker, part = midr >> 24 & 0xFF, midr >> 4 & 0xFFF
    return PARTS.get(part, f"Arm's part {part:#x}") if maker == ARM else f"part {part:#x} of maker {maker:#x}"


def _memory(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def _celsius(root: Path) -> float | None:
    zones = (_integer(p / "temp") for p in sorted((root / "sys/class/thermal").glob("thermal_zone*")))
    return max((z / 1000 for z in zones if z is not None), default=None)


def _throttled(said: str) -> int | None:
    found = FIRMWARE_FLAG.fullmatch(said.strip())
    return None if found is None else int(found[1], 16)


def _under_voltage(root: Path) -> bool:
    """Raspberry Pi's alarm, as mainline kernels show it (rpi_volt)."""
    sensors = (root / "sys/class/hwmon").glob("hwmon*")
    return any(_text(s / "name").strip() == "rpi_volt" and _integer(s / "in0_lcrit_alarm") == 1 for s in sensors)


def _heat_steps(root: Path) -> int:
    devices = (root / "sys/class/thermal").glob("cooling_device*")
    states = (_integer(d / "cur_state") for d in devices if "cpufreq" in _text(d / "type"))
    return max((s for s in states if s is not None), default=0)


def _limits(root: Path) -> Limits:
    rtprio = re.search(r"^Max realtime priority\s+(\S+)", _text(root / "proc/self/limits"), re.MULTILINE)
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)", _text(root / "proc/self/status"), re.MULTILINE)
    soft = rtprio[1] if rtprio else ""
    groups = [line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines() if line.count(":") >= 2]
    own = next((path for _, kinds, path in groups if not kinds), None)
    old = next((path for _, kinds, path in groups if "cpu" in kinds.split(",")), None)
    cores, min_bytes = _group_limits(root, own)
    return Limits(
        rtprio=99 if soft == "unlimited" else int(soft) if soft.isdigit() else None,
        may_nice=capabilities is not None and bool(int(capabilities[1], 16) & CAP_SYS_NICE),
        rt_runtime_us=_integer(root / "proc/sys/kernel/sched_rt_runtime_us"),
        rt_period_us=_integer(root / "proc/sys/kernel/sched_rt_period_us"),
        group_rt_runtime_us=None if old is None else _integer(root / f"sys/fs/cgroup/cpu/{old.strip('/')}/cpu.rt_runtime_us"),
        group_cores=cores,
        group_bytes=min_bytes,
        cpus=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
    )


def _group_limits(root: Path, own: str | None) -> tuple[float | None, int | None]:
    """Cores' worth of time and bytes of memory that control groups (version 2) leave this process: the least of its own group
    and of those above it."""
    top = root / "sys/fs/cgroup"
    folder, cores, sizes = top / (own or "").strip("/"), [], []
    while own is not None:
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            cores.append(int(quota) / int(period))
        size = _text(folder / "memory.max").strip()
        sizes += [int(size)] if size.isdigit() else []
        if folder == top or top not in folder.parents:
            break
        folder = folder.parent
    return min(cores, default=None), min(sizes, default=None)
