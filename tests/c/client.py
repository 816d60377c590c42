"""The program of `edgeemo compile --format exe` served at a Unix socket, and a client of it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PATIENCE_S = 120.0  # of a busy machine, not of the program


@contextlib.contextmanager
def served(command: list[str], path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """``command --socket path``, once it listens. Ended by SIGTERM if the test has not done that."""
    process = subprocess.Popen([*command, "--socket", str(path), *options], stderr=subprocess.PIPE, text=True)
    try:
        ends = time.monotonic() + PATIENCE_S
        while not path.is_socket() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.01)
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, process.stderr.read() if process.stderr else ""
        if process.stderr:
            process.stderr.close()


def connect(path: Path) -> socket.socket:
    ends = time.monotonic() + PATIENCE_S
    while True:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(PATIENCE_S)
        try:
            made.connect(str(path))
        except ConnectionRefusedError:  # bound, but not listening yet
            made.close()
            assert time.monotonic() < ends
            time.sleep(0.01)
        else:
            return made


def read_lines(connection: socket.socket) -> list[dict[str, Any]]:
    """Everything until the program closes, without the name of the call."""
    data = b""
    while part := connection.recv(1 << 16):
        data += part
    connection.close()
    return [without_call(line) for line in data.decode().splitlines()]


def without_call(line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line)
    found.pop("call", None)
    return found


def pcm(sound: np.ndarray) -> bytes:
    """Float samples in [-1, 1] as 16 bit."""
    return np.round(np.clip(sound, -1, 32767 / 32768) * 32768).astype("<i2").tobytes()
