"""A sample of the fuzzing that `make fuzz-c` does, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from edgeemo_runtime.members import pack, read_members

from tests.c.building import SOURCE
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def build(out: Path) -> Path:
    """The driver with the library in it."""
    flags = ["-std=c99", "-O1", "-g", "-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    sources = [ROOT / "tests/c/fuzz.c", SOURCE / "src/edgeemo.c", SOURCE / "vendor/monocypher_edgeemo.c"]
    subprocess.run(["cc", *flags, "-I", str(SOURCE / "include"), "-o", str(out), *map(str, sources), "-lm"], check=True)
    return out


def small_archive(artifact: Path, out: Path) -> Path:
    """The artifact without weights, which only makes reading it slow: manifest and code are what is damaged."""
    members = read_members(artifact)
    manifest = json.loads(members.manifest)
    manifest["quantization"] = None
    manifest["files"]["weights.bin"] = hashlib.sha256(b"").hexdigest()
    out.write_bytes(pack(json.dumps(manifest).encode(), members.library, b""))
    return out


def run(driver: Path, kind: str, artifact: Path, seed: int, count: int) -> str:
    done = subprocess.run([str(driver), kind, str(artifact), str(seed), str(count)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_sample(host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    driver = build(tmp_path / "fuzz")
    small = small_archive(host_artifacts["int8"], tmp_path / "small.edgeemo")
    assert run(driver, "archive", small, 1, 1500).startswith("1500 archives")
    assert run(driver, "api", host_artifacts["int8"], 1, 4000).startswith("4000 calls")
