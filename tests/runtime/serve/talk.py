"""Clients of the tests: each sends a call's audio in its protocol and comes back with every step that was answered."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from edgeemo_runtime import PRESETS, Engine
from edgeemo_runtime.audio import stream_resampler

from tests.runtime.serve.conftest import Running

HOP = 1280
Steps = list[tuple[float, list[float]]]  # (end_s, probabilities) by step


def alone(artifact: Path, samples: np.ndarray, rate: int = 8000) -> Steps:
    """Engine's answers to the same audio: float32 samples of one channel."""
    engine = Engine(artifact, 1, PRESETS["raw"])
    if rate != engine.sample_rate:
        resample = stream_resampler(rate, engine.sample_rate)
        samples = np.concatenate([resample(samples, False), resample(samples[:0], True)]).clip(-1, 1).astype(np.float32)
    stream = engine.open()
    found: Steps = []
    for at in range(0, len(samples), HOP):
        stream.push(samples[at : at + HOP])
        if at + HOP >= len(samples):
            stream.finish()
        found += [(r.end_s, r.probabilities.tolist()) for r in engine.step()]
    return found


def steps_of(events: Sequence[dict[str, Any]], leg: str = "caller") -> Steps:
    return [(e["end_s"], list(e["probabilities"].values())) for e in events if e["type"] == "step" and e["leg"] == leg]


class Listener:
    """Every event of a service, in the background, until a call's end."""

    def __init__(self, running: Running, headers: dict[str, str] | None = None) -> None:
        self.http, self.headers = running.http, headers or {}

    def during(self, call: str, work: Callable[[], None], timeout: float = 60.0) -> list[dict[str, Any]]:
        """Does ``work`` while listening; the events of ``call`` up to its end."""

        async def run() -> list[dict[str, Any]]:
            events: list[dict[str, Any]] = []
            address = f"{self.http}/v1/events?steps=1"
            async with aiohttp.ClientSession(headers=self.headers) as session, session.get(address) as answer:
                assert answer.status == 200, await answer.text()
                doing = asyncio.ensure_future(asyncio.to_thread(work))
                async for line in answer.content:
                    if not line.startswith(b"data: "):
                        continue
                    event = json.loads(line[6:])
                    if event["call"] == call:
                        events.append(event)
                        if event["type"] == "end":
                            break
                await doing
            return events

        return asyncio.run(asyncio.wait_for(run(), timeout))


def talk(
    running: Running, messages: Sequence[str | bytes], path: str = "/v1/listen", until: str = "end",
    headers: dict[str, str] | None = None, protocols: Sequence[str] = (),
    patience: float = 30.0,
) -> tuple[list[Any], int | None]:  # fmt: skip
    """Sends messages over a WebSocket; what came back (JSON where it is) until an event of type ``until`` or the end, and the
    closing code."""

    async def run() -> tuple[list[Any], int | None]:
        got: list[Any] = []
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.ws_connect(running.websocket + path, compress=0, protocols=protocols) as ws,
        ):

            async def send() -> None:
                for message in messages:
                    await (ws.send_bytes(message) if isinstance(message, bytes) else ws.send_str(message))

            sending = asyncio.ensure_future(send())
            async for message in ws:
                data = json.loads(message.data) if message.data.startswith("{") else message.data
                got.append(data)
                if isinstance(data, dict) and data.get("type") == until:
                    break
            sending.cancel()
            code = ws.close_code
        return got, code

    return asyncio.run(asyncio.wait_for(run(), patience))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def twilio_messages(call: str, data: bytes) -> list[str]:
    start = {
        "callSid": call,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
    }
    messages: list[dict[str, Any]] = [{"event": "connected", "protocol": "Call", "version": "1.0.0"}]
    messages.append({"event": "start", "streamSid": "MZ", "start": start})
    for i, piece in enumerate(pieces(data, 160)):
        media = {"track": "inbound", "chunk": str(i + 1), "timestamp": str(20 * i), "payload": base64.b64encode(piece).decode()}
        messages.append({"event": "media", "streamSid": "MZ", "media": media})
    return [json.dumps(m) for m in [*messages, {"event": "stop", "streamSid": "MZ"}]]


def audiosocket(running: Running, call: str, data: bytes, kind: int = 0x10, size: int = 320) -> bytes:
    """A whole call, as fast as TCP takes it; what came back."""
    with socket.create_connection(("127.0.0.1", running.port("audiosocket")), timeout=30) as link:
        link.sendall(b"\x01\x00\x10" + uuid.UUID(call).bytes)
        try:
            for piece in pieces(data, size):
                link.sendall(bytes([kind]) + struct.pack(">H", len(piece)) + piece)
            link.sendall(b"\0\0\0")
            return link.recv(100)
        except ConnectionError:
            return b""


def rtp_packets(
    data: bytes, size: int, samples: int, payload_type: int, first: int = 65530, stamp: int = 2**32 - 400
) -> list[bytes]:
    """Numbers and timestamps that wrap soon."""
    return [
        struct.pack("!BBHII", 0x80, payload_type, (first + i) % 65536, (stamp + samples * i) % 2**32, 0xABCD) + piece
        for i, piece in enumerate(pieces(data, size))
    ]


def send_rtp(port: int, packets: Sequence[bytes], pause: float = 0.0005) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.connect(("127.0.0.1", port))
        for packet in packets:
            link.send(packet)
            time.sleep(pause)


def ask(running: Running, method: str, path: str, headers: dict[str, str] | None = None, **what: Any) -> tuple[int, Any]:
    """(status, JSON or text) of a request."""

    async def run() -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, running.http + path, headers=headers, **what) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    return asyncio.run(run())


def wait_for(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Until ``what`` is true."""
    ends = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.02)
    return found
