"""Models on a board: installed, rolled back, listed; killed at any instant, `current` still works."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgeemo_runtime import EdgeEmoError
from edgeemo_runtime.members import read_members
from edgeemo_runtime.model import Model
from edgeemo_runtime.ops import store

from edgeemo.compile.codegen.package import pack_artifact

pytestmark = pytest.mark.slow


@pytest.fixture
def old(host_artifacts: dict[str, Path]) -> Path:
    return host_artifacts["int8"]


@pytest.fixture
def new(host_artifacts: dict[str, Path]) -> Path:
    return host_artifacts["fp16"]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.is_symlink())


def test_install_rollback_and_list(old: Path, new: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = store.install(old, models)
    assert first.startswith("cosyVoice-v20")
    assert store.current(models) == models / first
    with pytest.raises(EdgeEmoError, match="no model to go back to"):
        store.rollback(models)
    second = store.install(new, models)
    assert second == f"{first}-2"
    assert [(r.name, r.role, r.problem) for r in store.installed(models)] == [(first, "previous", ""), (second, "current", "")]
    assert store.rollback(models) == first
    assert store.rollback(models) == second
    Model(store.current(models), 2).warm_up()
    assert names(models) == [first, second]


def test_what_is_installed_is_not_written_over(old: Path, tmp_path: Path) -> None:
    name = store.install(old, tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
    with pytest.raises(EdgeEmoError, match=f"is installed as .*{name}"):
        store.install(old, tmp_path)
    assert {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} == before
    assert names(tmp_path) == [name]


def test_a_broken_artifact_changes_nothing(old: Path, new: Path, tmp_path: Path) -> None:
    name = store.install(old, tmp_path / "models")
    data = bytearray(new.read_bytes())
    data[-5000] ^= 1
    (tmp_path / "bad.edgeemo").write_bytes(data)
    with pytest.raises(EdgeEmoError, match=r"bad\.edgeemo"):
        store.install(tmp_path / "bad.edgeemo", tmp_path / "models")
    assert names(tmp_path / "models") == [name]
    assert store.linked(tmp_path / "models", store.CURRENT) == name


def test_a_broken_previous_is_not_gone_back_to(old: Path, new: Path, tmp_path: Path) -> None:
    first, second = store.install(old, tmp_path), store.install(new, tmp_path)
    (tmp_path / first / "weights.bin").write_bytes(b"")
    with pytest.raises(EdgeEmoError, match=f"{first}: cannot serve"):
        store.rollback(tmp_path)
    assert store.linked(tmp_path, store.CURRENT) == second
    assert next(r for r in store.installed(tmp_path) if r.name == first).problem


def test_canary_and_its_promotion(old: Path, new: Path, tmp_path: Path) -> None:
    first = store.install(old, tmp_path)
    second = store.install(new, tmp_path, store.CANARY)
    assert (store.linked(tmp_path, store.CURRENT), store.linked(tmp_path, store.CANARY)) == (first, second)
    assert store.promote(tmp_path) == second
    assert (store.linked(tmp_path, store.CURRENT), store.linked(tmp_path, store.PREVIOUS)) == (second, first)
    assert store.linked(tmp_path, store.CANARY) is None
    with pytest.raises(EdgeEmoError, match="has no canary"):
        store.promote(tmp_path)


def test_killed_at_any_instant_current_works(old: Path, new: Path, tmp_path: Path) -> None:
    """install and rollback in a process of their own, killed after a random time, again and again."""
    first = store.install(old, tmp_path)
    code = (
        "import sys; from pathlib import Path; from edgeemo_runtime.ops import store\n"
        "folder = Path(sys.argv[2])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n    store.install(Path(sys.argv[1]), folder)\nexcept store.EdgeEmoError:\n    pass\n"
        "while True: store.rollback(folder)\n"
    )
    rng = random.Random(4)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    seen = set()
    for attempt in range(12):
        artifact = new if attempt % 2 == 0 else old
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(artifact), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write(b"go\n")
        process.stdin.flush()
        time.sleep(rng.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        serving = store.current(tmp_path)
        Model(serving, 1).warm_up()
        seen.add(serving.name)
    assert first in seen
    store.install(old, tmp_path / "other")  # and a new folder works as ever
    rows = [r for r in store.installed(tmp_path) if r.role == "current"]
    assert len(rows) == 1
    assert not rows[0].problem


class Killed(BaseException):
    """A killed process, to the one that goes on: it did nothing after."""


@pytest.mark.parametrize("atomic", [True, False], ids=["exchange", "without exchange"])
def test_whatever_was_done_last_both_links_are_right(
    old: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    """Ended before each change of the folder in turn, an operation has happened whole or not at all."""
    first, second = store.install(old, tmp_path), store.install(new, tmp_path)
    if not atomic:
        monkeypatch.setattr(store, "_exchange", lambda one, other: False)
    changes = {"rename": os.rename, "replace": os.replace, "symlink": os.symlink, "unlink": os.unlink}
    for at in range(8):
        before = store.linked(tmp_path, store.CURRENT), store.linked(tmp_path, store.PREVIOUS)
        assert set(before) == {first, second}
        left = [at]

        def spoilt(name: str, left: list[int] = left) -> Callable:
            def change(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return changes[name](*arguments, **options)

            return change

        with monkeypatch.context() as patch:
            for name in changes:
                patch.setattr(os, name, spoilt(name))
            with contextlib.suppress(Killed):
                store.rollback(tmp_path)
        after = store.linked(tmp_path, store.CURRENT), store.linked(tmp_path, store.PREVIOUS)
        assert after in (before, before[::-1])
    assert store.rollback(tmp_path) in (first, second)
    assert not (tmp_path / ".previous").is_symlink()


def test_many_at_once(old: Path, tmp_path: Path) -> None:
    """Installations, rollbacks and lists side by side: none fails for another's sake, and every model is whole."""
    models = tmp_path / "models"
    whole = read_members(old)
    manifest = json.loads(whole.manifest)
    made = []
    for i in range(3):
        manifest["created"] = f"2026-12-0{i + 1}"
        path = tmp_path / f"{i}.edgeemo"
        path.write_bytes(pack_artifact(manifest, whole.library, whole.weights.tobytes()))
        made.append(path)
    store.install(old, models)
    run = [sys.executable, "-m", "edgeemo_runtime.ops.cli"]
    commands = [[*run, "install", str(p), "--models", str(models)] for p in made]
    commands += [[*run, "list", "--models", str(models)] for _ in range(2)]
    processes = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for c in commands]
    for process in processes:
        assert process.wait(timeout=300) == 0, process.stderr and process.stderr.read()
    rows = store.installed(models)
    assert len(rows) == 4 and not any(r.problem for r in rows)
    assert sorted(r.role for r in rows) == ["", "", "current", "previous"]


def test_links_lead_nowhere_else(old: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    name = store.install(old, models)
    (tmp_path / "other").mkdir()
    for target in ("../other", "/tmp", ".", "..", name + "/../" + name, ".hidden", "missing", "current"):
        (models / "current").unlink()
        (models / "current").symlink_to(target)
        assert store.linked(models, store.CURRENT) is None


def test_commands(old: Path, new: Path, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgeemo_runtime.ops.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    models = tmp_path / "models"
    assert "no such folder" in run("list", "--models", models).stderr
    assert run("install", old, "--models", models).returncode == 0
    assert run("install", new, "--models", models).stdout.strip().endswith("-2: installed, current")
    done = run("rollback", "--models", models)
    assert done.stdout.strip().endswith("current again")
    rows = json.loads(run("list", "--models", models, "--json").stdout)
    assert [r["role"] for r in rows] == ["current", "previous"]
    assert "fine" in run("list", "--models", models).stdout
    again = run("install", new, "--models", models)
    assert again.returncode == 1
    assert "is installed as" in again.stderr
    assert run("install", new).returncode == 2
