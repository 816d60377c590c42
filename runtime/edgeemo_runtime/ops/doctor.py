"""`edgeemo-run doctor`: what this machine is, which artifacts fit, what is in the way of answers in time, and how many calls to
expect. Each finding has the next step with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeemo_runtime.artifact import Artifact, load_artifact
from edgeemo_runtime.documents import read_json
from edgeemo_runtime.errors import EdgeEmoError, printable
from edgeemo_runtime.ops import store
from edgeemo_runtime.ops.board_facts import Board, Core, read_board
from edgeemo_runtime.ops.board_targets import TARGETS, fitting
from edgeemo_runtime.trust import ANYONE, Trust

STOP, WARN, NOTE = "stop", "warning", "note"
# Bits of Raspberry Pi's firmware (raspberrypi.com/documentation/computers/os.html#get_throttled); 16 higher: since the start.
FIRMWARE = {0: "under-voltage", 1: "its clock is capped", 2: "it is throttled", 3: "it is at its soft limit of temperature"}
SINCE_START = 16
SUPPLY = "use the supply made for the board (5 V, 3 A for a Pi 4, 5 A for a Pi 5) and a short cable"
COOLING = "give it a heat sink or a fan"
HOT_CELSIUS = 80.0  # where Raspberry Pi's firmware begins to slow the cores
MIN_BYTES = 150 << 20  # resident: 57 MB with 80 calls, and twice as much while a model is exchanged
BUSY = 0.5  # load per core from which others are in the way
GOVERNORS = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"


@dataclass(frozen=True)
class Finding:
    """Something in the way. ``level``: stop (nothing runs), warning (answers may be late), note. ``next``: the next step."""

    level: str
    what: str
    next: str


def report(root: Path, artifact: Path | None, capacity: Path | None, priority: int, trust: Trust = ANYONE) -> dict[str, Any]:
    """All of it as one JSON document. ``artifact``: a file, an unpacked one or a folder of models; ``capacity``: what `edgeemo
    capacity --out` wrote; ``priority``: of SCHED_FIFO, as wanted. Raises EdgeEmoError where the capacity file is none."""
    board = read_board(root) if root == Path("/") else read_board(root, lambda: "")
    targets = fitting(board.machine, board.extensions, {c.name for c in board.cores})
    calls = None if capacity is None else _planned(capacity)
    findings = [*_system(board), *_clock(board), *_firmware(board), *_real_time(board, priority), *_share(board)]
    described: dict[str, Any] | None = None
    if artifact is not None:
        try:
            loaded = load_artifact(store.current(artifact, trust) if _is_store(artifact) else artifact, trust)
        except EdgeEmoError as error:
            findings.insert(0, Finding(STOP, str(error), "compile or copy the artifact again, as the line says"))
            described = {"file": str(artifact), "runs_here": False}
        else:
            findings = [*_better_target(loaded, targets), *findings]
            described = {"file": str(loaded.path), "runs_here": True, "target": loaded.manifest["target"]["name"]}
            calls = calls or _estimated(loaded, board)
    return {
        "board": _described(board),
        "targets": targets,
        "artifact": described,
        "calls": calls,
        "findings": [asdict(f) for f in sorted(findings, key=lambda f: (STOP, WARN, NOTE).index(f.level))],
    }


def show(document: dict[str, Any]) -> None:
    """The document for people."""
    board, limits = document["board"], document["board"]["limits"]
    clusters = "; ".join(_cluster_line(c) for c in board["clusters"]) or "not said"
    rows = {
        "board": board["model"] or "not said",
        "machine": f"{board['machine']}, {board['bits']} bit" + (", emulated" if board["emulated"] else ""),
        "cores": clusters,
        "extensions": _extensions_line(board["extensions"]),
        "memory": "not said" if board["memory_bytes"] is None else f"{board['memory_bytes'] / 2**20:.0f} MiB",
        "temperature": "not said" if board["celsius"] is None else f"{board['celsius']:.0f} °C",
        "real time": "priority up to " + str(99 if limits["may_nice"] else limits["rtprio"] or 0),
        "targets": ", ".join(document["targets"]) or "none",
        "artifact": _artifact_line(document["artifact"]),
        "calls": _calls_line(document["calls"]),
    }
    for name, value in rows.items():
        print(f"{name:12} {printable(value)}")
    for finding in document["findings"]:
        print(printable(f"{finding['level']}: {finding['what']} -> {finding['next']}"))
    if not document["findings"]:
        print("nothing is in the way")


def doctor(artifact: Path | None, capacity: Path | None, priority: int, as_json: bool, trust: Trust) -> bool:
    """Prints the report of this machine. Returns whether an artifact that was given, or some artifact, runs here."""
    document = report(Path("/"), artifact, capacity, priority, trust)
    if as_json:
        print(json.dumps(document))
    else:
        show(document)
    return all(f["level"] != STOP for f in document["findings"])


def _is_store(path: Path) -> bool:
    return path.is_dir() and store.linked(path, store.CURRENT) is not None


def _system(board: Board) -> Iterator[Finding]:
    if board.bits == 32:
        what = f"this is a 32-bit system ({board.machine}), for which there are no artifacts"
        yield Finding(STOP, what, "install the 64-bit Raspberry Pi OS or Debian; every Pi from the 3 and Zero 2 W on runs it")
    elif board.machine not in {"x86_64", *(t.machine for t in TARGETS)}:
        yield Finding(NOTE, f"no target is known for {board.machine}", "compile on the machine itself with --target host")
    if board.emulated:
        yield Finding(NOTE, "the processor is emulated, /proc is of the machine around it", "ask a board for its cores")
    elif board.extensions is None:
        yield Finding(NOTE, "the kernel does not say the processor's extensions", "only artifacts that need none will load")
    if len({c.name for c in board.cores}) > 1:
        best = max(board.cores, key=lambda c: c.most_mhz or 0)
        cpus = [c.cpu for c in board.cores if c.name == best.name]
        yield Finding(NOTE, f"there are cores of several kinds; {best.name} is cpu {_ranges(cpus)}", f"bind with --cpu {cpus[0]}")


def _clock(board: Board) -> Iterator[Finding]:
    slow = sorted({c.governor for c in board.cores} - {"", "performance"})
    if slow:
        what = f"the clock's governor is {', '.join(slow)}: a step begins at whatever clock the core idled at"
        yield Finding(WARN, what, f"echo performance | sudo tee {GOVERNORS}")
    capped = [c for c in board.cores if c.most_mhz and c.allowed_mhz and c.allowed_mhz < c.most_mhz]
    if capped:
        what = f"cpu {_ranges([c.cpu for c in capped])}: held to {capped[0].allowed_mhz} of {capped[0].most_mhz} MHz"
        files = GOVERNORS.replace("governor", "max_freq")
        yield Finding(WARN, what, f"echo {(capped[0].most_mhz or 0) * 1000} | sudo tee {files}")


def _firmware(board: Board) -> Iterator[Finding]:
    bits = board.throttled or 0
    for bit, what in FIRMWARE.items():
        step = COOLING if bit else SUPPLY
        if bits >> bit & 1:
            yield Finding(WARN, f"the firmware says now: {what}", step)
        elif bits >> bit + SINCE_START & 1:
            yield Finding(WARN, f"the firmware has said since the start: {what}", step)
    if board.under_voltage and not bits & 1:
        yield Finding(WARN, "the supply's alarm of low voltage is set", SUPPLY)
    if board.heat_steps:
        yield Finding(WARN, f"the kernel slows the cores for their heat (step {board.heat_steps})", COOLING)
    if board.celsius is not None and board.celsius >= HOT_CELSIUS:
        yield Finding(WARN, f"it is {board.celsius:.0f} °C warm; from {HOT_CELSIUS:.0f} on cores are slowed", COOLING)


def _real_time(board: Board, priority: int) -> Iterator[Finding]:
    limits = board.limits
    if not limits.may_nice and (limits.rtprio or 0) < priority:
        what = f"priority {priority} is refused to this user (RLIMIT_RTPRIO is {limits.rtprio or 0}): others delay steps"
        yield Finding(WARN, what, f"LimitRTPRIO={priority} in the service's unit, or `USER - rtprio {priority}` in "
                                  "/etc/security/limits.d/edgeemo.conf and log in again")  # fmt: skip
    if limits.rt_runtime_us == 0 or limits.group_rt_runtime_us == 0:
        where = "kernel.sched_rt_runtime_us" if limits.rt_runtime_us == 0 else "cpu.rt_runtime_us of its control group"
        yield Finding(WARN, f"{where} is 0: no process has a real-time priority", f"set {where} to 950000")


def _share(board: Board) -> Iterator[Finding]:
    limits = board.limits
    if limits.group_cores is not None and limits.group_cores < max(1, len(limits.cpus)):
        what = f"its control group has {limits.group_cores:.2f} cores' worth of time: beyond that steps stand still"
        yield Finding(WARN, what, "remove CPUQuota= of the unit, or --cpus of the container, and bind to a core instead")
    least = min((b for b in (limits.group_bytes, board.memory_bytes) if b is not None), default=None)
    if least is not None and least < MIN_BYTES:
        what = f"there are {least / 2**20:.0f} MiB of memory; an engine and the exchange of its model want {MIN_BYTES >> 20}"
        yield Finding(WARN, what, "raise MemoryMax= of the unit, or --memory of the container")
    if board.load is not None and board.cores and board.load > BUSY * len(board.cores):
        what = f"others are at work: a load of {board.load:.1f} on {len(board.cores)} cores"
        yield Finding(NOTE, what, "stop them, or bind with --cpu and take a --priority")


def _better_target(artifact: Artifact, targets: list[str]) -> Iterator[Finding]:
    mine = artifact.manifest["target"]["name"]
    known = [t for t in targets if t != "host"]
    if known and mine in known and mine != known[0]:
        yield Finding(NOTE, f"{artifact.path}: is for {mine}; {known[0]} fits better", f"compile it with --target {known[0]}")


def _estimated(artifact: Artifact, board: Board) -> dict[str, Any] | None:
    """Calls that a core holds by the cost that the compiler wrote into the artifact; None where it wrote none."""
    estimate, stream = artifact.manifest.get("estimate"), artifact.manifest["stream"]
    if estimate is None or stream is None:
        return None
    fastest: Core | None = max(board.cores, key=lambda c: c.most_mhz or 0, default=None)
    own = None if fastest is None else fastest.allowed_mhz or fastest.most_mhz
    mhz = own or estimate["mhz"]
    seconds = stream["samples_per_step"] / stream["sample_rate"]
    per_core = int(mhz * 1e6 * seconds / estimate["cycles_per_step"])
    cores = len(board.limits.cpus) or len(board.cores) or 1
    how = f"modelled: {estimate['cycles_per_step'] / 1e6:.3f} M cycles a step, at {'its' if own else 'the usual'} {mhz} MHz"
    return {"per_core": per_core, "cores": cores, "how": how}


def _planned(path: Path) -> dict[str, Any]:
    document = read_json(path)
    try:
        most, target = int(document["phases_at_random"]["most_streams"]), str(document["target"])
    except (KeyError, TypeError, ValueError) as error:
        raise EdgeEmoError(f"{path}: is no plan; `edgeemo capacity --out FILE` writes one") from error
    return {"per_core": most, "cores": 1, "how": f"planned for a core of {target} by {path}, 99 % within 180 ms"}


def _described(board: Board) -> dict[str, Any]:
    """The board's facts, processors of one kind and clock together."""
    described = asdict(board)
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for core in described.pop("cores"):
        cpu = core.pop("cpu")
        core.pop("mhz")
        kinds.setdefault(tuple(core.items()), []).append(cpu)
    described["clusters"] = [{**dict(kind), "cpus": cpus} for kind, cpus in kinds.items()]
    return described


def _cluster_line(cluster: dict[str, Any]) -> str:
    clock = f" at most {cluster['most_mhz']} MHz" if cluster["most_mhz"] else ""
    governor = f", governor {cluster['governor']}" if cluster["governor"] else ""
    return f"{len(cluster['cpus'])} x {cluster['name'] or 'unknown'}{clock}{governor} (cpu {_ranges(cluster['cpus'])})"


def _extensions_line(extensions: Sequence[str] | None) -> str:
    return "not said" if extensions is None else ", ".join(extensions) or "none of those asked for"


def _artifact_line(artifact: dict[str, Any] | None) -> str:
    if artifact is None:
        return "none given"
    return f"{artifact['file']}: " + (f"for {artifact['target']}, runs here" if artifact["runs_here"] else "does not run here")


def _calls_line(calls: dict[str, Any] | None) -> str:
    if calls is None:
        return "not known without a board's artifact or --capacity; `edgeemo-run bench ARTIFACT --real-time` measures"
    return f"{calls['per_core']} a core, {calls['cores']} cores to run on ({calls['how']})"


def _ranges(numbers: list[int]) -> str:
    """Numbers with runs of them joined: 0-3,7."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
