"""A live process outlives whatever becomes current: one line says why it was not taken, and no call notices."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime import Engine
from edgeemo_runtime.members import read_members
from edgeemo_runtime.ops import store
from edgeemo_runtime.ops.config import Config
from edgeemo_runtime.ops.live import LiveLoop
from edgeemo_runtime.ops.supervisor import Supervisor
from edgeemo_runtime.schedule import Scheduler

from edgeemo.compile.codegen.package import pack_artifact
from tests.conftest import speech

pytestmark = pytest.mark.slow


def unpacked(host: Path, folder: Path) -> Path:
    whole = read_members(host)
    folder.mkdir()
    for name, data in (("manifest.json", whole.manifest), ("step.so", whole.library), ("weights.bin", whole.weights.tobytes())):
        (folder / name).write_bytes(data)
    return folder


def flip(models: Path, name: str) -> None:
    (models / ".new").symlink_to(name)
    (models / ".new").replace(models / "current")


def manifest_with(**changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))

    return spoil


def fifo(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


SPOILT: dict[str, Callable[[Path], None]] = {
    "weights cut": lambda f: os.truncate(f / "weights.bin", 1000),
    "weights gone": lambda f: (f / "weights.bin").unlink(),
    "library is text": lambda f: (f / "step.so").write_text("hello") and None,
    "deep JSON": lambda f: (f / "manifest.json").write_text("[" * 200_000) and None,
    "a FIFO": fifo,
    "target is text": manifest_with(target="x"),
    "no states": manifest_with(states=None),
    "for another machine": manifest_with(target={"name": "x", "machine": "vax", "cpu": "y"}),
    "another rate": manifest_with(stream=None),
    "others may write it": lambda f: f.chmod(0o777),
    "a member leads out": lambda f: ((f / "step.so").unlink(), (f / "step.so").symlink_to("/bin/true"))[0],
}


@pytest.mark.parametrize("what", SPOILT)
def test_the_old_one_serves_on(
    host_artifacts: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    unpacked(host_artifacts["int8"], models / "cosyVoice-vA")
    flip(models, "cosyVoice-vA")
    engine = Engine(store.current(models), 2)
    supervisor = Supervisor(engine, LiveLoop(engine, Scheduler()), Config(), models)
    SPOILT[what](unpacked(host_artifacts["float"], models / "cosyVoice-vB"))
    flip(models, "cosyVoice-vB")
    supervisor._asked = True
    call = engine.open()
    ends = time.monotonic() + 60
    while not supervisor._refused and time.monotonic() < ends:
        assert supervisor.poll()
        call.push(np.zeros(640, np.float32))
        engine.step()
        time.sleep(0.002)
    call.push(np.zeros(1280, np.float32))
    assert len(engine.step()) == 1
    for _ in range(20):  # it is not tried again and again
        supervisor._asked = True
        supervisor.poll()
    (line,) = [json.loads(row) for row in capfd.readouterr().err.splitlines()]
    assert (line["event"], line["name"], line["serving"]) == ("model_refused", "cosyVoice-vB", "cosyVoice-vA")
    assert line["reason"] and line["reason"].isprintable()
    assert engine.model.artifact.path.name == "cosyVoice-vA"


def test_a_served_file_may_be_overwritten(host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "served.edgeemo"
    path.write_bytes(host_artifacts["int8"].read_bytes())
    engine, alone = Engine(path, 1), Engine(host_artifacts["int8"], 1)
    calls = [e.open() for e in (engine, alone)]
    audio = speech(3, 6)
    for i in range(6):
        for call in calls:
            call.push(audio[i * 1280 : (i + 1) * 1280])
        results = [e.step().probabilities for e in (engine, alone)]
        np.testing.assert_array_equal(*results)
        if i == 1:
            path.write_bytes(pack_artifact({"x": 1}, b"y" * 10**6, b"z" * 10**6))
        if i == 3:
            os.truncate(path, 0)
