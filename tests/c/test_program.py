"""The program of `edgeemo compile --format exe`: a real client at its socket gets, line for line, what edgeemo-run answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime.g711 import decode

from edgeemo.compile.codegen.c_library import write_library
from edgeemo.compile.compiler import Compiled
from tests.aarch64 import board
from tests.c.building import SOURCE
from tests.c.client import connect, pcm, read_lines, served, without_call
from tests.conftest import speech

pytestmark = pytest.mark.slow
CLI = [sys.executable, "-m", "edgeemo_runtime.ops.cli"]


@pytest.fixture(scope="module")
def program(host_artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The program for this machine, under sanitizers, with the model from a file."""
    out = tmp_path_factory.mktemp("program") / "live"
    flags = ["-std=c99", "-O1", "-g", "-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    sources = [SOURCE / name for name in ("programs/live.c", "src/edgeemo.c", "vendor/monocypher_edgeemo.c")]
    subprocess.run(["cc", *flags, "-I", str(SOURCE / "include"), "-o", str(out), *map(str, sources), "-lm"], check=True)
    return [str(out), "--model", str(host_artifacts["int8"])]


def expected(artifact: Path, audio: bytes) -> list[dict[str, object]]:
    """Answers of edgeemo-run for a call on its stdin."""
    done = subprocess.run([*CLI, str(artifact), "-", "--json"], input=audio, capture_output=True, check=True)
    return [without_call(line) for line in done.stdout.decode().splitlines()]


@pytest.fixture(scope="module")
def calls(host_artifacts: dict[str, Path]) -> list[tuple[bytes, list[dict[str, object]]]]:
    """Audio of three calls, none of whole steps, and edgeemo-run's answers."""
    audio = [pcm(speech(clip, 40))[:end] for clip, end in ((0, 97_001), (40, 60_000), (90, 2))]
    return [(data, expected(host_artifacts["int8"], data[: len(data) // 2 * 2])) for data in audio]


def test_stdin(program: list[str], calls: list[tuple[bytes, list[dict[str, object]]]]) -> None:
    for data, answers in calls:
        done = subprocess.run(program, input=data, capture_output=True, check=True)
        assert [without_call(line) for line in done.stdout.decode().splitlines()] == answers


def test_calls_side_by_side(program: list[str], calls: list[tuple[bytes, list[dict[str, object]]]], tmp_path: Path) -> None:
    """In packets of odd sizes, so that samples are cut in two; sent as fast as it goes, read at the end."""
    rng = np.random.default_rng(0)
    with served(program, tmp_path / "s", "--calls", "3"):
        open_calls = [(connect(tmp_path / "s"), bytearray(data), answers) for data, answers in calls]
        left = list(open_calls)
        while left:
            connection, data, _ = left[rng.integers(len(left))]
            size = int(rng.integers(1, 9001))
            connection.sendall(data[:size])
            del data[:size]
            if not data:
                connection.shutdown(socket.SHUT_WR)
                left = [c for c in left if c[0] is not connection]
        for connection, _, answers in open_calls:
            assert read_lines(connection) == answers


def test_a_law(program: list[str], host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    audio = np.random.default_rng(3).integers(0, 256, 20_000).astype(np.uint8).tobytes()
    answers = expected(host_artifacts["int8"], decode(audio, "alaw").astype("<i2").tobytes())
    with served(program, tmp_path / "s", "--format", "alaw"):
        connection = connect(tmp_path / "s")
        connection.sendall(audio)
        connection.shutdown(socket.SHUT_WR)
        assert read_lines(connection) == answers


def test_bad_clients_do_not_reach_others(
    program: list[str], calls: list[tuple[bytes, list[dict[str, object]]]], tmp_path: Path
) -> None:
    """One is refused for want of room, one leaves in the middle of a sample, one never reads; the last is answered in full."""
    data, answers = calls[1]
    with served(program, tmp_path / "s", "--calls", "3") as process:
        held = [connect(tmp_path / "s") for _ in range(3)]
        assert "all 3 streams are in use" in str(read_lines(connect(tmp_path / "s"))[0]["error"])
        held[0].sendall(data[:5001])
        held[0].close()
        deaf = held[1]
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        deaf.sendall(data * 40)
        held[2].sendall(data)
        held[2].shutdown(socket.SHUT_WR)
        assert read_lines(held[2]) == answers
        deaf.shutdown(socket.SHUT_WR)
        heard = read_lines(deaf)  # whole lines, of which it may have lost some
        assert len(answers) < len(heard) <= 40 * len(answers)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert not (tmp_path / "s").exists()


def test_audio_that_is_none_ends_the_call_with_a_line(program: list[str], tmp_path: Path) -> None:
    with served(program, tmp_path / "s", "--format", "f32"):
        connection = connect(tmp_path / "s")
        connection.sendall(np.array([0.1, np.nan], np.float32).tobytes())
        assert "NaN" in str(read_lines(connection)[0]["error"])


def test_paths(program: list[str], tmp_path: Path) -> None:
    """A socket left behind is taken over; one that is served, a file, and a path too long are refused in a line."""
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "s"))
    stale.close()
    (tmp_path / "file").write_text("kept")

    def refused(*options: str) -> str:
        done = subprocess.run([*program, *options], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    with served(program, tmp_path / "s"):
        connection = connect(tmp_path / "s")
        assert "another process serves it" in refused("--socket", str(tmp_path / "s"))
        connection.shutdown(socket.SHUT_WR)
        assert read_lines(connection) == []
    assert "in use" in refused("--socket", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "kept"
    assert "too long" in refused("--socket", str(tmp_path / ("x" * 200)))
    assert "1 to 1024" in refused("--calls", "0")
    assert "usage" in refused("--format", "mp3")


QEMU = pytest.mark.skipif(not board.available(), reason=board.REASON)


@pytest.fixture(scope="module")
def static_program(board_compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("static") / "emotion"
    write_library("exe", "emotion", "aarch64", "musl", board_compiled, out)
    return out


@pytest.mark.qemu
@QEMU
@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_the_static_program_on_a_board(static_program: Path, board_artifact: Path, tmp_path: Path, cpu: str) -> None:
    """No library and no file but itself; answers of the board's Python, on stdin and at the socket."""
    assert static_program.stat().st_size <= 7_000_000
    data = pcm(speech(0, 12))
    said = board.run(["-m", "edgeemo_runtime.ops.cli", str(board_artifact), "-", "--json"], stdin=data)
    answers = [without_call(line) for line in said.stdout.decode().splitlines()]
    assert len(answers) == 12, said.stderr.decode()
    command = ["qemu-aarch64", "-cpu", cpu, str(static_program)]
    alone = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, input=data, capture_output=True, check=True, env=alone, cwd=tmp_path)
    assert [without_call(line) for line in done.stdout.decode().splitlines()] == answers
    info = json.loads(subprocess.run([*command, "--info"], capture_output=True, check=True).stdout)
    assert info["version"] == answers[0]["model"]
    with served(command, tmp_path / "s"):
        connection = connect(tmp_path / "s")
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert read_lines(connection) == answers
