"""edgeemo-serve and edgeemo-load as processes: what systemd does with them, signals, kill -9, and mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from edgeemo_runtime.serve import systemd

from tests.conftest import ROOT
from tests.runtime.serve.talk import wait_for

SERVE = [sys.executable, "-m", "edgeemo_runtime.serve.main"]
LOAD = [sys.executable, "-m", "edgeemo_runtime.serve.load.main"]
NOWHERE = ["--listen", "websocket=127.0.0.1:0", "--listen", "audiosocket=", "--listen", "rtp="]
DEPLOY = ROOT / "runtime" / "deploy"


def said(*command: object) -> tuple[int, str]:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none.edgeemo", *NOWHERE, "--http", "127.0.0.1:0"], r"edgeemo-serve: none\.edgeemo: .*no such file.*"),
        (["x", "--config", "none.toml"], r"edgeemo-serve: none\.toml: cannot be read.*"),
        (["x", "--listen", "sip=1.2.3.4:5060"], r"edgeemo-serve: --listen takes .*, not sip=1\.2\.3\.4:5060"),
        (["x", *NOWHERE, "--http", "0.0.0.0:0"], r"edgeemo-serve: http 0\.0\.0\.0:0: others could connect.*--insecure"),
        (["x", *NOWHERE, "--http", "256.0.0.1:80"], r"edgeemo-serve: http 256\.0\.0\.1:80: .*"),
        (["x", "--engines", "99"], r"edgeemo-serve: engines must lie in 0\.\.64, not 99"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str) -> None:
    code, text = said(*SERVE, *arguments)
    assert code == 1 and re.fullmatch(line, text.strip()), text


def test_a_load_without_a_service_is_one_line() -> None:
    code, text = said(*LOAD, "websocket", "--http", "http://127.0.0.1:1")
    assert (
        code == 1
        and text.startswith("edgeemo-load: http://127.0.0.1:1: no edgeemo-serve answers there")
        and text.count("\n") == 1
    )
    assert said(*LOAD, "websocket", "--loss", "2")[0] == 1


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text = said(*SERVE, "x", *NOWHERE, "--http", where)
    assert code == 1 and f"http {where}: cannot be had (Address already in use)" in text


def test_notices_go_to_a_service_manager_that_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not systemd.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not systemd.notify("READY=1")


def test_the_files_to_deploy_are_read_by_those_they_are_for() -> None:
    """serve.toml by us; the units by systemd and haproxy.cfg by HAProxy where they are here."""
    from edgeemo_runtime.serve.settings import load_settings

    settings, _ = load_settings(DEPLOY / "serve.toml")
    assert settings.rtp.known_calls and settings.auth.tokens
    if shutil.which("haproxy"):
        assert said("haproxy", "-c", "-f", DEPLOY / "haproxy.cfg")[0] == 0
    if shutil.which("systemd-analyze"):
        code, text = said("systemd-analyze", "verify", DEPLOY / "edgeemo-serve.service", DEPLOY / "edgeemo-serve.socket")
        wrong = [line for line in text.splitlines() if "Unknown" in line or "Failed to parse" in line]
        assert not wrong, (code, text)


def _command(tmp_path: Path, artifact: Path, http: socket.socket) -> tuple[list[str], dict]:
    """Command that systemd runs, and how: with a listening socket for HTTP."""
    config = tmp_path / "serve.toml"
    config.write_text('[serve]\nengines = 1\ncapacity = "max_streams"\n[engine]\nmax_streams = 2\n')

    def pass_socket() -> None:
        os.dup2(http.fileno(), systemd.FIRST)
        os.set_inheritable(systemd.FIRST, True)

    shell = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"]
    environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
    passed = {"pass_fds": (systemd.FIRST,), "preexec_fn": pass_socket, "env": environment}
    return [*shell, *SERVE, str(artifact), "--config", str(config), *NOWHERE, "--allow-writable"], passed


@contextmanager
def managed(artifact: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket, str]]:
    """The process as systemd starts it: with a listening socket for HTTP, and told where to say that it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as http, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        command, passed = _command(tmp_path, artifact, http)
        passed["env"]["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **passed)
        try:
            yield process, manager, f"http://127.0.0.1:{http.getsockname()[1]}"
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(20)


@contextmanager
def restarted(artifact: Path, tmp_path: Path) -> Iterator[tuple[Callable[[], int], str]]:
    """A supervisor that starts the service again whenever it ends: a function for its pid, and its address."""
    ended = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def supervise(command: list[str], passed: dict) -> None:
        while not ended.is_set():
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **passed))
            running[-1].wait()

    with socket.create_server(("127.0.0.1", 0)) as http:
        supervisor = threading.Thread(target=supervise, args=_command(tmp_path, artifact, http), daemon=True)
        supervisor.start()
        address = f"http://127.0.0.1:{http.getsockname()[1]}"
        try:
            wait_for(lambda: get(address + "/v1/status")["state"] == "ready")
            yield lambda: running[-1].pid, address
        finally:
            ended.set()
            running[-1].kill()
            supervisor.join(20)


def get(address: str) -> dict:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_as_systemd_runs_it(artifact: Path, tmp_path: Path) -> None:
    """READY once it is; the passed socket is served; SIGTERM says STOPPING and ends with 0; no process is left."""
    with managed(artifact, tmp_path) as (process, manager, http):
        assert b"READY=1" in manager.recv(200)
        status = get(http + "/v1/status")
        pids = [e["pid"] for e in status["engines"]]
        process.send_signal(signal.SIGTERM)
        while b"STOPPING=1" not in manager.recv(200):
            pass
        assert process.wait(20) == 0
        assert process.stderr is not None
        events = [json.loads(line)["event"] for line in process.stderr.read().splitlines()]
        assert events == ["serving", "draining", "stopped"]
        assert not [p for p in pids if _runs(p)]


@pytest.mark.slow
def test_a_killed_front_takes_its_engines_with_it(artifact: Path, tmp_path: Path) -> None:
    """So that the next one, which a supervisor starts, finds its cores free. A load test next to it ends with one line."""
    with managed(artifact, tmp_path) as (process, manager, http):
        assert b"READY=1" in manager.recv(200)
        pids = [e["pid"] for e in get(http + "/v1/status")["engines"]]
        command = [*LOAD, "websocket", "--calls", "2", "--seconds", "4", "--http", http, "--address", http.replace("http", "ws")]
        load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda: get(http + "/v1/status")["calls"] == 2)
        process.kill()
        wait_for(lambda: not [p for p in pids if _runs(p)])
        text, _ = load.communicate(timeout=60)
        assert load.returncode == 1 and text.startswith("edgeemo-load: ") and text.count("\n") == 1, text


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_full_disk_reaches_no_call(artifact: Path, tmp_path: Path) -> None:
    """Nothing can be logged, and the status file cannot be written: every answer comes all the same, and an end is an end."""
    with socket.create_server(("127.0.0.1", 0)) as http:
        command, passed = _command(tmp_path, artifact, http)
        with (tmp_path / "serve.toml").open("a") as config:
            config.write('[metrics]\nstatus = "/dev/full/status.json"\n')
        address = f"http://127.0.0.1:{http.getsockname()[1]}"
        with open("/dev/full", "wb", buffering=0) as full:
            process = subprocess.Popen(command, stdout=full, stderr=full, **passed)
        try:
            wait_for(lambda: get(address + "/v1/status")["state"] == "ready")
            websocket = ("--http", address, "--address", address.replace("http", "ws"))
            code, text = said(*LOAD, "websocket", "--calls", "2", "--seconds", "3", *websocket, "--json")
            report = json.loads(text)
            assert code == 0 and report["lost_answers"] == 0 and report["answers"] > 20, report
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait(20)


@pytest.mark.slow
def test_a_load_test_reports(artifact: Path, tmp_path: Path) -> None:
    """Two calls of each protocol at once against one process: every answer, and figures of all of it."""
    with managed(artifact, tmp_path) as (_, manager, http):
        assert b"READY=1" in manager.recv(200)
        code, text = said(*LOAD, "rtp", "--calls", "2", "--seconds", "3", "--http", http, "--json")
        assert code != 0 and "no RTP port" in text  # none is listened at
        assert (
            said(*LOAD, "websocket", "--calls", "2", "--seconds", "2", "--http", http, "--address", http.replace("http", "ws"))[0]
            == 0
        )
        code, text = said(
            *LOAD, "twilio", "--calls", "2", "--seconds", "3", "--http", http, "--address", http.replace("http", "ws"), "--json"
        )
        report = json.loads(text)
        assert code == 0 and report["lost_answers"] == 0 and report["packets"] == 300 and report["latency_ms"]["p50"] > 0
        time.sleep(0.1)


@pytest.mark.slow
def test_connections_that_come_and_go_leave_nothing(artifact: Path, tmp_path: Path) -> None:
    """Some say nothing, some are gone without a word: no call, no file and no channel of theirs is left."""
    with managed(artifact, tmp_path) as (_, manager, http):
        assert b"READY=1" in manager.recv(200)
        command = [*LOAD, "websocket", "--churn", "24", "--calls", "2", "--http", http, "--address", http.replace("http", "ws")]
        code, text = said(*command, "--json")
        report = json.loads(text)
        # One that is gone without a word keeps its channel until its audio was heard: the next may find none free.
        assert code == 0 and report["served"] >= 12 and not report["failed"] and not report["calls_left"], report
        assert report["served"] + report["refused"] == 24
        assert report["open_files"][-1] <= report["open_files"][0] + 1  # the connection that asks for the status
        assert get(http + "/v1/status")["channels"] == 0


@pytest.mark.slow
def test_calls_go_on_after_the_front_was_killed(artifact: Path, tmp_path: Path) -> None:
    """A supervisor starts it anew on the socket it keeps; clients that connect again are heard again."""
    with restarted(artifact, tmp_path) as (front, http):
        command = [*LOAD, "websocket", "--calls", "2", "--seconds", "12", "--http", http, "--address", http.replace("http", "ws")]
        load = subprocess.Popen([*command, "--reconnect", "--json"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda: get(http + "/v1/status")["calls"] == 2)
        time.sleep(1.0)
        os.kill(front(), signal.SIGKILL)
        text, _ = load.communicate(timeout=120)
        report = json.loads(text)
        assert load.returncode == 0 and report["reconnects"] == 2 and report["ended_by_server"] == 0
        away = report["max_away_s"]
        assert report["answers"] > 0 and report["lost_answers"] <= 2 * (away / 0.16 + 3)
