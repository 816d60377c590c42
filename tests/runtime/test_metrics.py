"""Figures never cost a call: whoever asks, however slowly, oddly or often, a poll is short."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from edgeemo_runtime import EdgeEmoError, Engine
from edgeemo_runtime.ops.metrics import MAX_CLIENTS, MAX_REQUEST, POLL_S, MetricsServer
from edgeemo_runtime.ops.supervisor import read_token

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(host_artifacts: dict[str, Path]) -> Engine:
    return Engine(host_artifacts["int8"], 2)


@pytest.fixture
def server(engine: Engine) -> Iterator[MetricsServer]:
    made = MetricsServer(engine, "127.0.0.1", 0)
    yield made
    made.close()


def connected(server: MetricsServer) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port))
    client.settimeout(0.01)
    return client


def answered(server: MetricsServer, client: socket.socket, polls: int = 400) -> bytes:
    """Answer that a client gets while the server is polled."""
    got = b""
    for _ in range(polls):
        server.poll()
        try:
            data = client.recv(1 << 20)
        except TimeoutError:
            continue
        except ConnectionResetError:
            return got
        if not data:
            return got
        got += data
    return got


def asked(server: MetricsServer, request: bytes) -> bytes:
    with connected(server) as client:
        client.sendall(request)
        return answered(server, client)


def test_whole_pages_in_pieces(server: MetricsServer) -> None:
    got = asked(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"edgeemo_streams_max 2.0" in body and b"edgeemo_late_total" in body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /other HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\x00\xff\xfe\r\n\r\n", b"405"),
        (b"GET  /metrics\r\n\r\n", b"40"),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * MAX_REQUEST, b"431"),
    ],
)
def test_what_is_no_request_is_told_so(server: MetricsServer, request_: bytes, status: bytes) -> None:
    assert asked(server, request_).startswith(b"HTTP/1.1 " + status)


def test_a_token_is_asked_for(engine: Engine) -> None:
    server = MetricsServer(engine, "127.0.0.1", 0, "s3cret")
    assert asked(server, b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 401")
    assert asked(server, b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer s3cre\r\n\r\n").startswith(b"HTTP/1.1 401")
    assert asked(server, b"GET /metrics HTTP/1.1\r\nauthorization: Bearer s3cret\r\n\r\n").startswith(b"HTTP/1.1 200")
    server.close()


def test_nobody_is_waited_for(server: MetricsServer) -> None:
    """Idle, dripping, half a request, gone: as many as like. A poll does not read a socket that has nothing, and ends in time."""
    clients = []
    for _ in range(2 * MAX_CLIENTS - 1):  # half of them wait to be accepted
        clients.append(connected(server))
        server.poll()
    for i, client in enumerate(clients):
        if i % 3 == 0:
            client.send(b"GET /met")
        elif i % 3 == 1:
            client.close()
    longest = 0.0
    for _ in range(50):
        for client in clients[::3]:
            client.send(b"r")
        began = time.thread_time()
        server.poll()
        longest = max(longest, time.thread_time() - began)
    assert longest < 10 * POLL_S  # processor time, so that a busy machine does not count
    assert len(server._clients) <= MAX_CLIENTS
    for client in clients:
        client.close()
    assert asked(server, b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_those_who_take_too_long_are_let_go(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeemo_runtime.ops.metrics.CLIENT_S", 0.0)
    with connected(server):
        server.poll()
        assert not server._clients


def test_tokens_are_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\nmore\n")
    assert read_token(str(tmp_path / "token")) == "abc"
    (tmp_path / "token").write_text("\n")
    with pytest.raises(EdgeEmoError, match="is empty"):
        read_token(str(tmp_path / "token"))
    with pytest.raises(EdgeEmoError, match="no token can be read"):
        read_token(str(tmp_path / "no"))
