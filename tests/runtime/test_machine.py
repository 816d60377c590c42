"""Extensions of processors that are not here."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgeemo_runtime import machine

A53, A76 = 0x8FB, 0x119FFB  # AT_HWCAP under qemu-aarch64 7.2; AT_HWCAP2 is 0


@pytest.mark.parametrize(
    ("hwcap", "hwcap2", "there", "missing"),
    [
        (A53, 0, {"aes", "sha2", "crc"}, {"lse", "dotprod", "fullfp16", "rdm", "rcpc", "sve", "i8mm", "bf16"}),
        (A76, 0, {"crc", "lse", "dotprod", "fullfp16", "rdm", "rcpc"}, {"sve", "sve2", "i8mm", "bf16", "jsconv", "sha3"}),
        (A76 & ~(1 << 10), 1 << 13, {"i8mm", "dotprod"}, {"fullfp16", "bf16"}),  # scalar halves alone are not all of them
        (1 << 22, 1 << 1 | 1 << 14, {"sve", "sve2", "bf16"}, {"crc", "i8mm"}),
    ],
)
def test_arm_s_extensions_are_the_kernel_s_bits(
    monkeypatch: pytest.MonkeyPatch, hwcap: int, hwcap2: int, there: set[str], missing: set[str]
) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(machine, "auxiliary_value", {machine.AT_HWCAP: hwcap, machine.AT_HWCAP2: hwcap2}.get)
    found = machine.extensions()
    assert found is not None and there <= found and not missing & found
    assert all(map(machine.is_checked, found)) and not machine.is_checked("avx2")
    assert machine.way_out().endswith("--target aarch64-neon")


def test_a_kernel_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(machine, "auxiliary_value", lambda key: 0)
    assert machine.extensions() is None
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert machine.extensions() is None
    assert not machine.is_checked("lse") and machine.way_out().endswith("--target host")


def test_the_auxiliary_vector_is_read() -> None:
    assert machine.auxiliary_value(6) in (4096, 16384, 65536)  # AT_PAGESZ
