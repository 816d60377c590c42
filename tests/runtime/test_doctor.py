"""edgeemo-run doctor on made-up /proc and /sys trees: what a board is, what fits it, what is in the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeemo_runtime import machine
from edgeemo_runtime.artifact import Artifact
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.members import pack
from edgeemo_runtime.ops import board_facts, board_targets, cli, doctor

from edgeemo.targets.board import load_target, target_names
from tests.runtime.test_machine import A53, A76
from tests.runtime.test_manifest import GOOD

A72 = A53
LIMITS = "Limit  Soft Limit  Hard Limit  Units\nMax realtime priority     {}                    0\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def arm_board(root: Path, part: int, count: int = 4, khz: int = 1_500_000, **files: str) -> Path:
    """A board of ``count`` cores of a part, at rest: right governor, no throttling, real-time priority allowed."""
    blocks = [f"processor\t: {n}\nCPU implementer\t: 0x41\nCPU part\t: {part:#x}\n" for n in range(count)]
    write(
        root,
        {
            "proc/cpuinfo": "\n".join(blocks) + "\nModel\t\t: A board\n",
            "proc/device-tree/model": "Raspberry Pi 9 Model Z\0",
            "proc/meminfo": "MemTotal:        3884328 kB\nMemFree: 1 kB\n",
            "proc/loadavg": "0.05 0.10 0.09 1/200 999\n",
            "proc/self/limits": LIMITS.format(95),
            "proc/self/status": "Name:\tx\nCapEff:\t0000000000000000\n",
            "proc/self/cgroup": "0::/system.slice/edgeemo.service\n",
            "proc/sys/kernel/sched_rt_runtime_us": "950000\n",
            "sys/class/thermal/thermal_zone0/temp": "45277\n",
        },
    )
    for n in range(count):
        clocks = {"scaling_governor": "performance", "scaling_cur_freq": f"{khz}", "cpuinfo_max_freq": f"{khz}",
                  "scaling_max_freq": f"{khz}"}  # fmt: skip
        write(root, {f"sys/devices/system/cpu/cpu{n}/cpufreq/{k}": v + "\n" for k, v in clocks.items()})
    write(root, files)
    return root


@pytest.fixture
def aarch64(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this an ARM machine with so many bits of AT_HWCAP."""

    def become(hwcap: int) -> None:
        monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
        monkeypatch.setattr(machine, "auxiliary_value", {machine.AT_HWCAP: hwcap, machine.AT_HWCAP2: 0}.get)
        monkeypatch.setattr(board_facts.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})

    return become


def said(document: dict[str, Any]) -> str:
    return "\n".join(f"{f['level']}: {f['what']} -> {f['next']}" for f in document["findings"])


def test_the_list_of_targets_agrees_with_the_files() -> None:
    """A board that is in a file only is not offered by doctor; one that is offered is that of the file."""
    files = {n: load_target(n) for n in target_names() if n != "host"}
    assert {known.name for known in board_targets.TARGETS} == set(files)
    for known in board_targets.TARGETS:
        assert (known.machine, known.needs) == (files[known.name].machine, files[known.name].needs), known.name


@pytest.mark.parametrize(
    ("part", "hwcap", "core", "targets"),
    [
        (0xD03, A53, "Cortex-A53", ["pi3", "aarch64-neon"]),
        (0xD08, A72, "Cortex-A72", ["aarch64-neon", "pi3"]),
        (0xD0B, A76, "Cortex-A76", ["pi5", "aarch64-neon", "pi3"]),
    ],
)
def test_a_board_that_is_in_order(tmp_path: Path, aarch64: Any, part: int, hwcap: int, core: str, targets: list[str]) -> None:
    aarch64(hwcap)
    document = doctor.report(arm_board(tmp_path, part), None, None, 50)
    board = document["board"]
    assert document["targets"] == targets and document["findings"] == []
    assert board["model"] == "Raspberry Pi 9 Model Z" and board["celsius"] == pytest.approx(45.277)
    assert board["clusters"] == [
        {"name": core, "governor": "performance", "most_mhz": 1500, "allowed_mhz": 1500, "cpus": [0, 1, 2, 3]}
    ]
    json.dumps(document)


GROUP = "sys/fs/cgroup/system.slice/edgeemo.service"


@pytest.mark.parametrize(
    ("files", "what", "step"),
    [
        ({"sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "ondemand"}, "governor is ondemand", "tee .*scaling_governor"),
        ({"sys/devices/system/cpu/cpu3/cpufreq/scaling_max_freq": "600000"}, "cpu 3: held to 600 of 1500 MHz", "echo 1500000"),
        ({board_facts.THROTTLED: "50005\n"}, "now: under-voltage", "5 V"),
        ({board_facts.THROTTLED: "40000\n"}, "has said since the start: it is throttled", "heat sink"),
        ({"sys/class/hwmon/hwmon1/name": "rpi_volt", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1"}, "low voltage", "5 V"),
        ({"sys/class/thermal/cooling_device2/type": "cpufreq-cpu0", "sys/class/thermal/cooling_device2/cur_state": "2"},
         r"slows the cores for their heat \(step 2\)", "fan"),
        ({"sys/class/thermal/thermal_zone0/temp": "84000"}, "84 °C", "fan"),
        ({"proc/self/limits": LIMITS.format(0)}, r"priority 50 is refused to this user \(RLIMIT_RTPRIO is 0\)", "LimitRTPRIO=50"),
        ({"proc/sys/kernel/sched_rt_runtime_us": "0"}, "sched_rt_runtime_us is 0", "950000"),
        ({"proc/self/cgroup": "3:cpu,cpuacct:/box\n0::/\n", "sys/fs/cgroup/cpu/box/cpu.rt_runtime_us": "0"}, "control group is 0",
         "950000"),
        ({f"{GROUP}/cpu.max": "50000 100000"}, "0.50 cores' worth", "CPUQuota"),
        ({"sys/fs/cgroup/system.slice/cpu.max": "150000 100000"}, "1.50 cores' worth", "CPUQuota"),
        ({f"{GROUP}/memory.max": "67108864"}, "64 MiB of memory", "MemoryMax"),
        ({"proc/loadavg": "3.90 1 1 1/1 1"}, "a load of 3.9 on 4 cores", "--cpu"),
    ],
)  # fmt: skip
def test_what_is_in_the_way_is_said_once_with_the_next_step(
    tmp_path: Path, aarch64: Any, files: dict[str, str], what: str, step: str
) -> None:
    aarch64(A72)
    arm_board(tmp_path, 0xD08)
    write(tmp_path, files)
    document = doctor.report(tmp_path, None, None, 50)
    hits = [f for f in document["findings"] if re.search(what, f["what"])]
    assert len(hits) == 1 and re.search(step, hits[0]["next"]), said(document)
    assert hits[0]["level"] in (doctor.WARN, doctor.NOTE)


def test_the_firmware_s_tool_is_asked_where_no_file_says_it(tmp_path: Path, aarch64: Any) -> None:
    aarch64(A72)
    arm_board(tmp_path, 0xD08)
    assert board_facts.read_board(tmp_path, lambda: "throttled=0x50005").throttled == 0x50005
    assert board_facts.read_board(tmp_path, lambda: "VCHI initialization failed").throttled is None
    write(tmp_path, {board_facts.THROTTLED: "0\n"})
    assert board_facts.read_board(tmp_path, lambda: "throttled=0x50005").throttled == 0


def test_a_root_s_capability_makes_up_for_the_limit(tmp_path: Path, aarch64: Any) -> None:
    aarch64(A72)
    root = arm_board(tmp_path, 0xD08)
    write(root, {"proc/self/limits": LIMITS.format(0), "proc/self/status": "CapEff:\t000001ffffffffff\n"})
    assert doctor.report(root, None, None, 50)["findings"] == []


def test_big_and_little_cores_and_the_main_id_register(tmp_path: Path, aarch64: Any) -> None:
    """RK3588: four Cortex-A55 ahead of four Cortex-A76; a register that says another part than cpuinfo counts for less."""
    aarch64(A76)
    root = arm_board(tmp_path, 0xD05, khz=1_800_000)
    text = (root / "proc/cpuinfo").read_text().replace("CPU part\t: 0xd05\n", "")
    for n in range(4, 8):
        text += f"\nprocessor\t: {n}\nBogoMIPS\t: 48\n"
        midr = {f"sys/devices/system/cpu/cpu{n}/regs/identification/midr_el1": "0x00000000414fd0b0\n"}
        write(root, midr | {f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq": "2400000"})
    for n in range(4):
        write(root, {f"sys/devices/system/cpu/cpu{n}/regs/identification/midr_el1": "0x00000000412fd050\n"})
    write(root, {"proc/cpuinfo": text})
    document = doctor.report(root, None, None, 50)
    assert [(c["name"], c["cpus"]) for c in document["board"]["clusters"]] == [
        ("Cortex-A55", [0, 1, 2, 3]), ("Cortex-A76", [4, 5, 6, 7])]  # fmt: skip
    assert "Cortex-A76 is cpu 4-7 -> bind with --cpu 4" in said(document)
    assert document["targets"][0] == "pi5"


def test_a_32_bit_system_stops_everything(tmp_path: Path, aarch64: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may be a 64-bit one: Raspberry Pi OS of 32 bits comes with such."""
    aarch64(A72)
    monkeypatch.setattr(board_facts.struct, "calcsize", lambda kind: 4)
    assert said(doctor.report(arm_board(tmp_path, 0xD08), None, None, 50)).startswith("stop: this is a 32-bit system (aarch64)")


def test_an_empty_tree_says_what_it_does_not_know(tmp_path: Path, aarch64: Any, capsys: pytest.CaptureFixture[str]) -> None:
    aarch64(0)
    document = doctor.report(tmp_path, None, None, 50)
    doctor.show(document)
    out = capsys.readouterr().out
    assert document["board"]["clusters"] == [] and "cores        not said" in out and "targets      aarch64-neon, pi3" in out
    assert "does not say the processor's extensions" in out


@pytest.mark.parametrize(
    "text", ["processor: \nCPU part: 0x\n", "processor: 0\nCPU part: zz\nCPU implementer: 7\n", "\0\xff" * 9]
)
def test_odd_files_are_no_errors(tmp_path: Path, aarch64: Any, text: str) -> None:
    aarch64(A72)
    root = arm_board(tmp_path, 0xD08)
    write(root, {"proc/cpuinfo": text, "proc/self/limits": text, "proc/self/cgroup": text + "::::", "proc/loadavg": text})
    write(root, {"sys/class/thermal/thermal_zone0/temp": text, board_facts.THROTTLED: text})
    json.dumps(doctor.report(root, None, None, 50))


def test_a_plan_says_how_many_calls(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"target": "pi5", "phases_at_random": {"most_streams": 640}}))
    calls = doctor.report(Path("/"), None, tmp_path / "plan.json", 50)["calls"]
    assert calls["per_core"] == 640 and "a core of pi5" in calls["how"]
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(EdgeEmoError, match=r"plan\.json: is no plan; `edgeemo capacity --out FILE`"):
        doctor.report(Path("/"), None, tmp_path / "plan.json", 50)


def loaded(target: str, estimate: dict[str, int] | None) -> Artifact:
    stream = {"samples_per_step": 1280, "sample_rate": 8000}
    manifest = {"target": {"name": target, "machine": "aarch64"}, "stream": stream, "estimate": estimate}
    return Artifact(Path("m.edgeemo"), manifest, "1", b"", np.zeros(0, np.uint8))


def test_calls_come_from_the_artifact_s_cost_at_the_board_s_clock(
    tmp_path: Path, aarch64: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """0.16 s of 1800 MHz are 288 M cycles; the limit that is set counts, not the one a core could have."""
    aarch64(A76)
    root = arm_board(tmp_path, 0xD0B, khz=1_800_000)
    costs = {"cycles_per_step": 600_000, "mhz": 2400}
    monkeypatch.setattr(doctor, "load_artifact", lambda path, trust: loaded("aarch64-neon", costs))
    document = doctor.report(root, Path("m.edgeemo"), None, 50)
    assert document["artifact"] == {"file": "m.edgeemo", "runs_here": True, "target": "aarch64-neon"}
    assert document["calls"]["per_core"] == 480 and document["calls"]["cores"] == 4
    assert said(document) == "note: m.edgeemo: is for aarch64-neon; pi5 fits better -> compile it with --target pi5"
    doctor.show(document)
    assert "480 a core, 4 cores to run on (modelled: 0.600 M cycles a step, at its 1800 MHz)" in capsys.readouterr().out
    for path in root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_max_freq"):
        path.write_text("900000")
    assert doctor.report(root, Path("m.edgeemo"), None, 50)["calls"]["per_core"] == 240
    for path in root.glob("sys/devices/system/cpu/cpu*/cpufreq/*_freq"):
        path.unlink()
    assert doctor.report(root, Path("m.edgeemo"), None, 50)["calls"]["per_core"] == 640  # the target's clock
    monkeypatch.setattr(doctor, "load_artifact", lambda path, trust: loaded("pi5", None))
    assert doctor.report(root, Path("m.edgeemo"), None, 50)["calls"] is None


def test_an_artifact_that_does_not_fit_is_said_with_the_loader_s_line(tmp_path: Path, aarch64: Any) -> None:
    aarch64(A72)
    (tmp_path / "m.edgeemo").write_bytes(b"PK")
    document = doctor.report(arm_board(tmp_path / "root", 0xD08), tmp_path / "m.edgeemo", None, 50)
    assert document["artifact"]["runs_here"] is False and document["calls"] is None
    assert document["findings"][0]["level"] == doctor.STOP and "m.edgeemo" in document["findings"][0]["what"]


def packed(folder: Path, name: str, machine: str, needs: tuple[str, ...]) -> Path:
    manifest = {**GOOD, "target": {**GOOD["target"], "name": name, "machine": machine, "needs": list(needs)}}
    path = folder / f"{name}.edgeemo"
    path.write_bytes(pack(json.dumps(manifest).encode(), b"code", b"weights"))
    return path


@pytest.mark.parametrize(("hwcap", "best"), [(A76, "pi5"), (A72, "aarch64-neon"), (0, "aarch64-neon")])
def test_of_several_artifacts_the_one_that_fits_is_installed(tmp_path: Path, aarch64: Any, hwcap: int, best: str) -> None:
    aarch64(hwcap)
    files = [packed(tmp_path, t.name, t.machine, t.needs) for t in board_targets.TARGETS if t.name != "pi3"]
    files.append(packed(tmp_path, "host", "x86_64", ("avx2",)))
    for order in (files, files[::-1]):
        assert board_targets.best_artifact(order).stem == best
    assert board_targets.best_artifact(files[-1:]) == files[-1]  # one alone is for the loader to refuse
    with pytest.raises(EdgeEmoError, match=r"none of .*host\.edgeemo \(host\).* runs on this machine; compile for "):
        board_targets.best_artifact([files[-1], packed(tmp_path, "sve", "aarch64", ("sve2",))])


def test_the_command_on_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli.main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["artifact"] is None and document["targets"] and document["board"]["bits"] == 64
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", str(tmp_path / "none.edgeemo")])
    assert ended.value.code == 1 and "stop: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--priority", "0"])
    assert "--priority" in capsys.readouterr().err
