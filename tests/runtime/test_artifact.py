"""Every way an artifact can be wrong is one line, and none of it loads."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeemo_runtime.artifact import load_artifact
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.compile.codegen.package import pack_artifact


def manifest_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return dict(json.loads(archive.read("manifest.json")))


def repacked(path: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The artifact with a changed manifest and right hashes."""
    manifest = manifest_of(path)
    change(manifest)
    with zipfile.ZipFile(path) as archive:
        return pack_artifact(manifest, archive.read("step.so"), archive.read("weights.bin"))


@pytest.mark.slow
def test_manifest_says_what_it_is(host_artifacts: dict[str, Path]) -> None:
    manifest = manifest_of(host_artifacts["int8"])
    assert manifest["schema"] == 1
    assert manifest["stream"]["labels"][0] == "angry"
    assert manifest["quantization"]["threshold"] == "mse"
    assert set(manifest["files"]) == {"step.so", "weights.bin"}
    assert manifest_of(host_artifacts["float"])["quantization"] is None
    assert host_artifacts["int8"].stat().st_size <= 6.5e6


@pytest.mark.slow
def test_weights_are_mapped_at_a_cache_line(host_artifacts: dict[str, Path]) -> None:
    weights = load_artifact(host_artifacts["int8"]).weights
    assert weights.ctypes.data % 64 == 0
    assert not weights.flags.owndata


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[: len(data) // 2], "is cut off or not an edgeemo artifact"),
        (lambda data: data[:-30_000], "is cut off or not an edgeemo artifact"),
        (lambda data: b"hello", "is cut off or not an edgeemo artifact"),
        (lambda data: data[:3_000_000] + bytes([data[3_000_000] ^ 1]) + data[3_000_001:], "weights.bin"),
        (lambda data: b"", "is cut off or not an edgeemo artifact"),
    ],
    ids=["half", "no directory", "text", "one bit", "empty"],
)
def test_damage_is_noticed(host_artifacts: dict[str, Path], tmp_path: Path, spoil: Any, words: str) -> None:
    bad = tmp_path / "bad.edgeemo"
    bad.write_bytes(spoil(host_artifacts["int8"].read_bytes()))
    with pytest.raises(EdgeEmoError, match=words) as caught:
        load_artifact(bad)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(schema=99), "has schema 99, this runtime reads up to 1; upgrade edgeemo-runtime"),
        (lambda m: m["target"].update(machine="riscv64"), "is for riscv64"),
        (lambda m: m["target"].update(cpu="znver9", needs=["avx2048"]), "is for znver9, this machine lacks its avx2048; .* host"),
        (lambda m: m.pop("step"), "its manifest is not sound: it lacks step"),
    ],
    ids=["newer schema", "other machine", "other processor", "missing key"],
)
def test_manifest_that_does_not_fit(host_artifacts: dict[str, Path], tmp_path: Path, change: Any, words: str) -> None:
    bad = tmp_path / "bad.edgeemo"
    bad.write_bytes(repacked(host_artifacts["int8"], change))
    with pytest.raises(EdgeEmoError, match=words):
        load_artifact(bad)


@pytest.mark.slow
def test_board_artifact_is_refused_here(board_artifact: Path) -> None:
    import platform

    if platform.machine() == "aarch64":
        pytest.skip("this machine is one")
    with pytest.raises(EdgeEmoError, match=r"is for aarch64 .*--target host"):
        load_artifact(board_artifact)


def test_packing_is_deterministic_and_aligned(tmp_path: Path) -> None:
    first, second = (pack_artifact({"schema": 1}, b"lib" * 11, b"w" * 1000) for _ in "12")
    assert first == second
    (tmp_path / "a.zip").write_bytes(first)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            header = first[info.header_offset : info.header_offset + 30]
            name, extra = np.frombuffer(header[26:30], "<u2")
            assert (info.header_offset + 30 + int(name) + int(extra)) % 64 == 0
