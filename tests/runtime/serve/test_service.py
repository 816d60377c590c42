"""A service under load, faults and strangers: other calls never notice."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from edgeemo_runtime.serve.formats import decode
from edgeemo_runtime.serve.settings import LimitRules, ResultRules, Settings

from tests.conftest import speech
from tests.runtime.serve.conftest import CONFIG, Running
from tests.runtime.serve.talk import alone, ask, audiosocket, pieces, send_rtp, steps_of, talk, wait_for

pytestmark = pytest.mark.slow
SPEECH = (np.asarray(speech(3, 30)) * 32767).astype("<i2").tobytes()
HEADER = {"edgeemo": 1, "format": "s16", "rate": 8000, "steps": True}
END = '{"end": true}'


@contextmanager
def live_call(running: Running, seconds: float = 60.0) -> Iterator[tuple[str, Callable[[], tuple[list, bool]]]]:
    """A call in real time next to a test. The function ends it: (its events, whether every packet was sent in time)."""
    call, stop = uuid.uuid4().hex, threading.Event()
    events: list = []

    async def run() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(running.websocket, compress=0) as ws:
            await ws.send_str(json.dumps({**HEADER, "call": call}))

            async def read() -> None:
                async for message in ws:
                    events.append(json.loads(message.data))

            reading = asyncio.ensure_future(read())
            began, sent = time.monotonic(), 0
            while not stop.is_set() and time.monotonic() - began < seconds:
                while sent * 0.02 < time.monotonic() - began:
                    at = sent * 320 % len(SPEECH)
                    await ws.send_bytes(SPEECH[at : at + 320])
                    sent += 1
                await asyncio.sleep(0.01)
            await ws.send_str(END)
            await reading

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        wait_for(lambda: call in running.service.calls.running)

        def end() -> tuple[list, bool]:
            stop.set()
            thread.join(30)
            return events, not thread.is_alive()

        yield call, end
    finally:
        stop.set()
        thread.join(30)


def whole(events: list, artifact: Path) -> None:
    """Every hop was answered once, in order, and as Engine answers it."""
    steps = steps_of(events)
    assert [round(end / 0.16) for end, _ in steps] == list(range(1, len(steps) + 1))
    audio = decode(SPEECH * (1 + len(steps) * 2560 // len(SPEECH)), "s16")[: len(steps) * 1280]
    # The last hop was cut where the call was ended.
    assert steps[:-1] == alone(artifact, audio)[: len(steps) - 1]


def test_calls_beyond_capacity_are_refused_in_their_own_way(running: Running) -> None:
    """By WebSocket a message and code 1013, by AudioSocket a hang-up frame, by RTP status 503; probes say full."""

    async def fill() -> None:
        async with aiohttp.ClientSession() as session:
            sockets = [await session.ws_connect(running.websocket) for _ in range(8)]
            for ws in sockets:
                await ws.send_str(json.dumps(HEADER))
                await ws.receive()
            refused = await session.ws_connect(running.websocket)
            await refused.send_str(json.dumps(HEADER))
            said = json.loads((await refused.receive()).data)
            assert (said["type"], said["code"]) == ("refused", "full")
            assert (await refused.receive()).data == 1013
            async with session.get(running.http + "/readyz") as answer:
                assert answer.status == 503 and (await answer.json())["status"] == "full"
            async with session.get(running.http + "/healthz") as answer:
                assert answer.status == 200
            assert await asyncio.to_thread(audiosocket, running, str(uuid.uuid4()), bytes(320)) in (b"\0\0\0", b"")
            for ws in sockets:
                await ws.send_str(END)
                await ws.close()

    asyncio.run(fill())
    wait_for(lambda: ask(running, "GET", "/readyz")[0] == 200)
    assert running.service.calls.refused["websocket", "full"] >= 1 and running.service.calls.refused["audiosocket", "full"] >= 1


def test_a_killed_engine_is_followed_by_another(serve: Callable[..., Running], artifact: Path) -> None:
    """kill -9 under two calls: they go on, every hop is answered once, and a second death is survived as well."""
    running = serve()
    with live_call(running) as (_, end), live_call(running) as (_, end_other):
        for _ in range(2):
            wait_for(lambda: running.service.pool.spare is not None)
            time.sleep(1.0)
            pid = running.service.pool.engines[0].pid
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: running.service.pool.engines[0].pid != pid and running.service.pool.engines[0].ready)
            time.sleep(1.0)
        for events, in_time in (end(), end_other()):
            assert in_time
            ends = [round(e / 0.16) for e, _ in steps_of(events)]
            assert ends == list(range(1, len(ends) + 1)) and len(ends) > 15
            assert events[-1]["type"] == "end" and events[-1]["legs"]["caller"]["lost_samples"] == 0
    assert running.service.pool.moved == 4 and len(running.service.pool.resumed_s) == 4
    running.close()


def test_calls_of_a_killed_engine_move_to_one_with_room(serve: Callable[..., Running], artifact: Path) -> None:
    """Two engines share four calls; one dies, the other takes its calls at once, and new calls go where there is most room."""
    settings = Settings()
    running = serve(replace(settings, serve=replace(settings.serve, engines=2, capacity="max_streams", pin=False)))
    pool = running.service.pool
    with live_call(running) as a, live_call(running) as b, live_call(running) as c, live_call(running) as d:
        assert [e.channels for e in pool.engines] == [2, 2]
        wait_for(lambda: all(call.legs["caller"].record.steps > 5 for call in running.service.calls.running.values()))
        pid = pool.engines[0].pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: pool.engines[1].channels == 4)
        wait_for(lambda: len(pool.resumed_s) == 2 and pool.engines[0].pid != pid and pool.engines[0].ready)
        with live_call(running) as (_, end_new):
            assert [e.channels for e in pool.engines] == [1, 4]
            end_new()
        for _, end in (a, b, c, d):
            events, in_time = end()
            ends = [round(e / 0.16) for e, _ in steps_of(events)]
            assert in_time and ends == list(range(1, len(ends) + 1))
    assert pool.moved == 2
    running.close()


def test_an_engine_that_hangs_is_killed(serve: Callable[..., Running]) -> None:
    settings = Settings()
    running = serve(replace(settings, serve=replace(settings.serve, engines=1, capacity="max_streams", pin=False, silent_s=1.0)))
    pid = running.service.pool.engines[0].pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: running.service.pool.engines[0].pid != pid and running.service.pool.engines[0].ready)
    running.close()


def test_strangers_and_garbage_disturb_no_call(serve: Callable[..., Running], artifact: Path) -> None:
    """Random bytes at every listener, half requests, frames that promise much: one call next to them is answered to the bit."""
    rng, running = np.random.default_rng(7), serve(Settings(limits=LimitRules(idle_s=2.0)))
    with live_call(running) as (_, end):
        for round_ in range(25):
            for listener in ("audiosocket", "websocket", "http"):
                with socket.create_connection(("127.0.0.1", running.port(listener)), timeout=5) as link:
                    link.sendall(rng.bytes(int(rng.integers(1, 3000))))
            for _, port in running.service.rtp.ports:
                send_rtp(port.port, [rng.bytes(int(rng.integers(0, 200))) for _ in range(5)], 0)
            text = rng.bytes(40).decode("latin1")
            talk(running, [text, rng.bytes(50), json.dumps({"edgeemo": text})][round_ % 3 :], until="refused")
            talk(running, [json.dumps(HEADER), "x" * 70_000] if round_ % 2 else [b"\x01" * 70_000])
        with socket.create_connection(("127.0.0.1", running.port("audiosocket"))) as link:
            link.sendall(b"\x10\xff\xff" + bytes(100))
        events, in_time = end()
    assert in_time
    whole(events, artifact)
    wait_for(lambda: not running.service.calls.running)  # some of it was RTP
    assert running.service.pool.headroom == 8
    running.close()


def test_results_over_http(running: Running) -> None:
    call = uuid.uuid4().hex
    with live_call(running) as (live, end):
        talk(running, [json.dumps({**HEADER, "call": call}), *pieces(SPEECH, 3200), END])
        status, said = ask(running, "GET", f"/v1/calls/{call}")
        assert status == 200 and said["running"] is False and said["legs"]["caller"]["seconds"] == pytest.approx(4.8, abs=0.2)
        status, said = ask(running, "GET", f"/v1/calls/{live}")
        assert status == 200 and said["running"] is True
        wait_for(lambda: ask(running, "GET", f"/v1/calls/{live}/curve")[1]["legs"]["caller"])
        page = ask(running, "GET", "/metrics")[1]
        assert 'edgeemo_serve_calls{protocol="websocket"} 1.0' in page
        assert 'edgeemo_streams{engine="0"} 1.0' in page and "edgeemo_latency_seconds_bucket{" in page
        end()
    assert ask(running, "GET", "/v1/calls/nobody")[0] == 404 and ask(running, "GET", "/elsewhere")[0] == 404
    assert ask(running, "POST", "/v1/rtp", data="{")[0] == 400 and ask(running, "DELETE", "/v1/rtp/1")[0] == 404
    assert ask(running, "PUT", "/v1/expected/a%20b")[0] == 400


def test_webhooks_are_signed_and_tried_again(serve: Callable[..., Running], tmp_path: Path) -> None:
    """The first answer is an error; every event arrives all the same, in order, with a signature that holds."""
    secret = tmp_path / "secret"
    secret.write_text("hook-secret\n")
    secret.chmod(0o600)
    got: list[tuple[dict, str, bytes]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((json.loads(body), self.headers["X-EdgeEmo-Signature"], body))
            self.send_response(503 if len(got) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    results = ResultRules(webhook=f"http://127.0.0.1:{hook.server_port}/hook", webhook_secret=str(secret))
    running = serve(Settings(results=results))
    talk(running, [json.dumps(HEADER), *pieces(SPEECH, 3200), END])
    wait_for(lambda: got and got[-1][0]["type"] == "end")
    types = [event["type"] for event, _, _ in got]
    assert types[:3] == ["begin", "begin", "segment"] and "step" not in types
    for _, signature, body in got:
        stamp, _, value = signature.partition(",v1=")
        stamp = stamp.removeprefix("t=")
        assert hmac.new(b"hook-secret", f"{stamp}.".encode() + body, hashlib.sha256).hexdigest() == value
        assert abs(time.time() - int(stamp)) < 60
    hook.shutdown()
    running.close()


def test_a_dead_broker_and_a_dead_webhook_cost_nothing(serve: Callable[..., Running], artifact: Path) -> None:
    """Events that nobody takes are left out, oldest first; calls are answered as ever."""
    results = ResultRules(mqtt="mqtt://127.0.0.1:1", webhook="http://127.0.0.1:1/", events=("step", "end"), tries=1)
    running = serve(Settings(results=results, limits=LimitRules(unread_events=4)))
    with live_call(running) as (_, end):
        time.sleep(2.0)
        events, in_time = end()
    assert in_time
    whole(events, artifact)
    assert running.service.calls.left_out["mqtt"] > 0 and running.service.calls.left_out["webhook"] > 0
    running.close()


def test_draining_lets_calls_end_and_takes_no_more(serve: Callable[..., Running]) -> None:
    running = serve()
    with live_call(running) as (_, end):
        assert ask(running, "POST", "/v1/drain", headers={"Origin": "http://evil.example.com"})[0] == 403
        assert ask(running, "POST", "/v1/drain")[1] == {"status": "draining", "calls": 1}
        assert ask(running, "GET", "/readyz")[1]["status"] == "draining"
        events, _ = talk(running, [json.dumps(HEADER)], until="never")
        assert events[0]["code"] == "draining"
        events, in_time = end()
        assert in_time and events[-1]["type"] == "end"
    running.close()


def test_connections_that_come_and_go_leave_nothing(serve: Callable[..., Running]) -> None:
    """Calls that end whenever: files, slots and places of addresses are as before."""
    running = serve(config=replace(CONFIG, engine=replace(CONFIG.engine, max_streams=8)))

    async def one(session: aiohttp.ClientSession, rng: np.random.Generator) -> None:
        try:
            async with session.ws_connect(running.websocket, compress=0) as ws:
                if rng.random() < 0.2:
                    return
                await ws.send_str(json.dumps(HEADER))
                for _ in range(int(rng.integers(0, 30))):
                    await ws.send_bytes(SPEECH[:3200])
                if rng.random() < 0.5:
                    await ws.send_str(END)
                    await ws.receive()
                if rng.random() < 0.3 and ws._response.connection is not None:
                    ws._response.connection.transport.abort()  # type: ignore[union-attr]
        except (aiohttp.ClientError, ConnectionError, TypeError):
            pass

    async def many() -> None:
        rng = np.random.default_rng(1)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=6)) as session:
            for _ in range(15):
                await asyncio.gather(*(one(session, rng) for _ in range(6)))

    talk(running, [json.dumps(HEADER), SPEECH[:3200], END])
    wait_for(lambda: not running.service.doorman._inside or sum(running.service.doorman._inside.values()) == 0)
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(many())
    wait_for(lambda: not running.service.calls.running and sum(running.service.doorman._inside.values()) == 0)
    assert running.service.pool.headroom == 8 and not running.service.pool.channels
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)
    running.close()
