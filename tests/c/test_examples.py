"""runtime/c/examples, built without a warning and run: files, ALSA's file plugin in place of a sound card, GStreamer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.c.building import SOURCE
from tests.c.client import pcm
from tests.conftest import speech

pytestmark = pytest.mark.slow
HEADERS = {"alsa_capture": "alsa", "gst_appsink": "gstreamer-app-1.0"}
STEPS = 12
RAW = "rawaudioparse format=pcm pcm-format=s16le sample-rate=8000 num-channels=1"


def missing(example: str) -> bool:
    """Whether the headers of somebody else's library are not there."""
    has = shutil.which("pkg-config") and subprocess.run(["pkg-config", "--exists", HEADERS[example]], check=False).returncode == 0
    return not has


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    command = ["make", "-s", "-C", str(SOURCE), f"OUT={folder}", "CFLAGS=-O2 -Werror", "examples"]
    subprocess.run(command, check=True, env={**os.environ, "MAKEFLAGS": ""})
    return folder


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last of its steps is not whole."""
    path = tmp_path_factory.mktemp("call") / "call.s16"
    path.write_bytes(pcm(speech(0, STEPS))[:-1000])
    return path


@pytest.fixture(scope="module")
def answers(examples: Path, host_artifacts: dict[str, Path], call: Path) -> list[str]:
    """Lines of one_call for the call."""
    with call.open("rb") as audio:
        done = subprocess.run(
            [examples / "one_call", host_artifacts["int8"]], stdin=audio, capture_output=True, check=True, text=True
        )
    return done.stdout.splitlines()


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment})


def test_one_call(answers: list[str]) -> None:
    assert len(answers) == STEPS and answers[-1].startswith(f"{0.16 * STEPS:6.2f} s")


def test_eighty_calls_from_files(examples: Path, host_artifacts: dict[str, Path], call: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.s16"
    short.write_bytes(call.read_bytes()[: 2 * 1280 * 3])
    done = run(examples / "many_calls", host_artifacts["int8"], call, short)
    assert done.stdout.startswith(f"{40 * STEPS + 40 * 3} steps of 80 calls"), done


@pytest.mark.skipif(missing("alsa_capture"), reason="libasound2-dev: `make counterparts`")
def test_alsa(examples: Path, host_artifacts: dict[str, Path], call: Path, answers: list[str], tmp_path: Path) -> None:
    card = f'pcm.card {{ type file slave.pcm {{ type null }} file "/dev/null" infile "{call}" format "raw" }}'
    (tmp_path / "asound.conf").write_text(card)
    program, model = examples / "alsa_capture", host_artifacts["int8"]
    done = run(program, model, "card", str(0.16 * (STEPS - 2)), ALSA_CONFIG_PATH=str(tmp_path / "asound.conf"))
    assert done.stdout.splitlines() == answers[: STEPS - 2], done.stderr
    refused = run(program, model, "nothing", "1", ALSA_CONFIG_PATH=str(tmp_path / "asound.conf"))
    assert refused.returncode == 1 and "error: nothing: " in refused.stderr


@pytest.mark.skipif(missing("gst_appsink"), reason="libgstreamer-plugins-base1.0-dev: `make counterparts`")
def test_gstreamer(examples: Path, host_artifacts: dict[str, Path], call: Path, answers: list[str]) -> None:
    program, model = examples / "gst_appsink", host_artifacts["int8"]
    done = run(program, model, f"filesrc location={call} ! {RAW}")
    assert (done.returncode, done.stdout.splitlines()) == (0, answers), done.stderr
    tone = run(program, model, "audiotestsrc num-buffers=50 samplesperbuffer=441 ! audio/x-raw,rate=44100")  # half a second
    assert (tone.returncode, len(tone.stdout.splitlines())) == (0, 4), tone.stderr
    for source in ("filesrc location=/no/such ! decodebin", "filesrc location=/etc/passwd ! wavparse", "nonsense"):
        refused = run(program, model, source)
        assert refused.returncode == 1 and refused.stderr.startswith("error: "), (source, refused)
