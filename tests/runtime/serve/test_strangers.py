"""Who may connect, and for how long: tokens, announced calls, first sources, silence, readers who do not read."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from edgeemo_runtime.serve.settings import AuthRules, LimitRules, PeerRules, RtpRules, Settings

from tests.runtime.serve.conftest import Running
from tests.runtime.serve.talk import Listener, ask, audiosocket, rtp_packets, send_rtp, talk, wait_for
from tests.runtime.serve.test_service import END, HEADER, SPEECH

pytestmark = pytest.mark.slow


def test_connections_that_say_nothing_are_ended(serve: Callable[..., Running]) -> None:
    """Before the first message, after the upgrade, and in a call that falls silent."""
    running = serve(Settings(limits=LimitRules(handshake_s=0.3, idle_s=1.0)))
    for listener in ("audiosocket", "websocket", "http"):
        with socket.create_connection(("127.0.0.1", running.port(listener)), timeout=10) as link:
            link.sendall(b"" if listener == "audiosocket" else b"GET / HTTP/1.1\r\nHost: x")
            try:
                while link.recv(1000):
                    pass
            except ConnectionResetError:
                pass
    assert talk(running, [])[1] == 1008
    events, code = talk(running, [json.dumps(HEADER), SPEECH[:3200]], until="never")
    assert code == 1001 and events[0]["type"] == "begin"
    assert running.service.calls.ended[events[0]["call"]]["reason"] == "idle"
    running.close()


def test_a_reader_who_does_not_read_is_dropped(serve: Callable[..., Running]) -> None:
    """His call ends, and nothing piles up."""
    running = serve(Settings(limits=LimitRules(unread_bytes=20_000)))

    async def run() -> None:
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", running.port("websocket")))
        _, writer = await asyncio.open_connection(sock=link, limit=1)
        writer.write(
            b"GET /v1/listen HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )

        def frame(kind: int, data: bytes) -> bytes:
            return bytes([0x80 | kind, 0x80 | 126]) + len(data).to_bytes(2, "big") + bytes(4) + data

        writer.write(frame(1, json.dumps(HEADER).encode().ljust(200)))
        await asyncio.sleep(0.3)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            while running.service.calls.left_out["websocket"] == 0:
                writer.write(frame(2, SPEECH[:32_000]))
                await asyncio.wait_for(writer.drain(), 20)
                await asyncio.sleep(0.01)
        except ConnectionError:
            pass

    asyncio.run(asyncio.wait_for(run(), 60))
    wait_for(lambda: not running.service.calls.running)
    running.close()


def test_tokens_are_asked_for_where_there_are_any(serve: Callable[..., Running], tmp_path: Path) -> None:
    """Over HTTP and WebSocket, by header, Basic or the page's session; what says nothing of calls is open."""
    token = tmp_path / "token"
    token.write_text("open-sesame\n")
    token.chmod(0o600)
    settings = Settings(
        auth=AuthRules(tokens=(str(token),)), audiosocket=PeerRules(known_calls=True), rtp=RtpRules(known_calls=True)
    )
    running = serve(settings)
    good = {"Authorization": "Bearer open-sesame"}
    for path in ("/healthz", "/readyz", "/"):
        assert ask(running, "GET", path)[0] == 200
    for path in ("/metrics", "/v1/calls", "/v1/events", "/v1/status", "/v1/live"):
        assert ask(running, "GET", path)[0] == 401
    assert ask(running, "GET", "/v1/calls", {"Authorization": "Bearer open-sesam"})[0] == 401
    assert ask(running, "GET", "/v1/calls", good)[0] == 200
    with pytest.raises(aiohttp.WSServerHandshakeError):
        talk(running, [json.dumps(HEADER)])
    with pytest.raises(aiohttp.WSServerHandshakeError):
        talk(running, [json.dumps(HEADER)], headers={**good, "Origin": "http://evil.example.com"})
    assert talk(running, [json.dumps(HEADER), END], headers=good)[0][-1]["type"] == "end"

    async def session() -> int:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
            async with client.post(running.http + "/v1/session", headers=good) as answer:
                assert (
                    answer.status == 200
                    and answer.cookies["edgeemo"]["httponly"]
                    and answer.cookies["edgeemo"]["samesite"] == "Strict"
                )
            async with client.get(running.http + "/v1/calls") as answer:
                return answer.status

    assert asyncio.run(session()) == 200
    # AudioSocket and RTP, which have no place for a token: only calls that were announced with one.
    call = str(uuid.uuid4())
    assert audiosocket(running, call, SPEECH[:3200]) in (b"\0\0\0", b"")
    assert call not in running.service.calls.ended
    assert ask(running, "PUT", f"/v1/expected/{call}")[0] == 401
    assert ask(running, "PUT", f"/v1/expected/{call}", good)[0] == 200
    audiosocket(running, call, SPEECH[:3200])
    wait_for(lambda: call in running.service.calls.ended)
    send_rtp(running.service.rtp.ports[0][1].port, rtp_packets(bytes(320), 160, 160, 0))
    time.sleep(0.2)
    assert not running.service.calls.running and running.service.calls.refused["rtp", "unexpected"] == 2
    running.close()


def test_an_rtp_port_belongs_to_its_first_source(running: Running) -> None:
    call = "rtp-" + uuid.uuid4().hex
    _, said = ask(running, "POST", "/v1/rtp", json={"call": call})
    good, evil = rtp_packets(bytes([0xFF]) * 1600, 160, 160, 0), rtp_packets(bytes(1600), 160, 160, 0)

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
            for a, b in zip(good, evil, strict=True):
                ours.sendto(a, ("127.0.0.1", said["port"]))
                theirs.sendto(b, ("127.0.0.1", said["port"]))
                time.sleep(0.002)
        ask(running, "DELETE", f"/v1/rtp/{said['port']}")

    events = Listener(running).during(call, work)
    assert events[-1]["counts"]["foreign_packets"] == len(evil) and events[-1]["counts"]["received_packets"] == len(good)
