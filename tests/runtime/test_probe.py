"""Code that is loaded for the first time runs in a child: what crashes, hangs or lies takes only the child with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edgeemo_runtime.abi import COLUMNS, FIRST_COLUMNS, load_functions
from edgeemo_runtime.artifact import load_artifact
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.members import Members, read_members
from edgeemo_runtime.probe import Probe, probed

from edgeemo.compile.codegen.package import pack_artifact
from tests.runtime.test_artifact import manifest_of

pytestmark = pytest.mark.slow

CODE = {
    "crashes when loaded": "__attribute__((constructor)) static void begin(void) { *(volatile int *)0 = 1; }",
    "ends the process when loaded": "#include <unistd.h>\n__attribute__((constructor)) static void begin(void) { _exit(0); }",
    "hangs when loaded": '__attribute__((constructor)) static void begin(void) { for (;;) __asm__ volatile(""); }',
    "has no function": "int other(void) { return 0; }",
}


def library(source: str, folder: Path) -> bytes:
    """A shared library of C, by the compiler that the linker's wheel brings."""
    (folder / "a.c").write_text(source)
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-o", str(folder / "a.so"), str(folder / "a.c")]
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "a.so").read_bytes()


def members(host: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None] = lambda m: None, **parts: bytes) -> Members:
    manifest = manifest_of(host)
    change(manifest)
    whole = read_members(host)
    path = tmp_path / "a.edgeemo"
    path.write_bytes(pack_artifact(manifest, parts.get("library", whole.library), parts.get("weights", whole.weights.tobytes())))
    return read_members(path)


@pytest.mark.parametrize("what", CODE)
def test_foreign_code(host_artifacts: dict[str, Path], tmp_path: Path, what: str) -> None:
    odd = members(host_artifacts["int8"], tmp_path, library=library(CODE[what], tmp_path))
    words = {"crashes when loaded": "its code crashed when it was tried", "hangs when loaded": "did not answer within 2 s",
             "ends the process when loaded": "its code ended the process", "has no function": "has no function step"}  # fmt: skip
    with pytest.raises(EdgeEmoError, match=words[what]) as caught:
        Probe(odd, limit_s=2.0).wait()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda m: m["step"].update(arena_bytes_per_stream=0), {}),
        (lambda m: m["step"].update(arena_bytes_per_stream=m["step"]["arena_bytes_per_stream"] - 64), {}),
        (lambda m: m["step"].update(state_words=m["step"]["state_words"] + 1), {}),
        (lambda m: None, {"weights": b"x" * 64}),
        (lambda m: m["around"].update(intake="decide", decide="intake"), {}),
    ],
    ids=["no arena", "less arena", "more states", "less weights", "functions swapped"],
)
def test_sizes_are_the_code_s(host_artifacts: dict[str, Path], tmp_path: Path, change: Any, parts: dict[str, bytes]) -> None:
    """The manifest lies and its hashes are right: the compiled step refuses it before it writes anything."""
    with pytest.raises(EdgeEmoError, match="its code does not fit its manifest"):
        probed(members(host_artifacts["int8"], tmp_path, change, **parts))


@pytest.mark.parametrize("columns", [True, False])
def test_functions_that_are_the_step_are_refused(host_artifacts: dict[str, Path], tmp_path: Path, columns: bool) -> None:
    """Whether or not they are of columns that this runtime would call them with."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["around"] = {**(manifest["around"] if columns else {}), "intake": "step", "decide": "step"}

    with pytest.raises(EdgeEmoError, match=r"around\.intake must be a function of its own"):
        probed(members(host_artifacts["int8"], tmp_path, change))


def test_functions_that_are_not_there_are_refused(host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    """Numpy serves those of other columns, and what the manifest names has to be in the library all the same."""
    with pytest.raises(EdgeEmoError, match="has no function other"):
        probed(members(host_artifacts["int8"], tmp_path, lambda m: m.update(around={"intake": "other", "decide": "decide"})))


def test_a_child_that_ends_slowly_holds_nobody_up(host_artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It has said that all is well and gives way to others before it ends: a live process looks again later."""
    monkeypatch.setattr("os._exit", lambda code: time.sleep(3600))
    probe = Probe(read_members(host_artifacts["int8"]))
    monkeypatch.undo()
    while not probe._said:
        assert probe.poll() is None
    assert probe.poll() is None
    began = time.process_time()
    probe.close()
    assert time.process_time() - began < 1.0 and probe._child == 0


def children() -> set[str]:
    """Process ids of this process's children, ended ones that nobody waited for among them."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_a_sound_one_leaves_nothing_behind(host_artifacts: dict[str, Path]) -> None:
    before, others = len(os.listdir("/proc/self/fd")), children()
    artifact = probed(read_members(host_artifacts["int8"]))
    assert artifact.version == load_artifact(host_artifacts["int8"]).version
    assert len(os.listdir("/proc/self/fd")) == before
    assert children() <= others


def test_an_artifact_of_other_columns_is_served_by_numpy(host_artifacts: dict[str, Path]) -> None:
    artifact = load_artifact(host_artifacts["int8"])
    assert artifact.manifest["around"]["columns"] == COLUMNS and load_functions(artifact) is not None

    def with_columns(columns: dict[str, list[str]] | None) -> Any:
        functions = {k: v for k, v in artifact.manifest["around"].items() if k != "columns"}
        functions |= {} if columns is None else {"columns": columns}
        return load_functions(replace(artifact, manifest={**artifact.manifest, "around": functions}))

    assert (with_columns(None) is not None) == (FIRST_COLUMNS == COLUMNS)  # as before the manifest held them
    assert with_columns({**COLUMNS, "rules": [*COLUMNS["rules"], "another"]}) is None
    assert with_columns({**COLUMNS, "times": COLUMNS["times"][::-1]}) is None
