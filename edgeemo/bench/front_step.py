"""Packets of live calls through the front's receiving code, from the event loop to the ring, and an engine's answers from its
connection to the calls' records, between two marker system calls (board_step.py says what those are).

    python front_step.py {audiosocket|rtp|websocket|twilio|answers|changes} CALLS ROUNDS WARM_UP

In every round each call has one packet of 20 ms in its socket, or an answer on its way in a batch of up to sixteen, before the
loop runs: who sends it is outside the markers, and so is the kernel. Runs on the (emulated) board, where nothing of edgeemo is
but the runtime; aiohttp, for WebSockets, in wheels that a72cost's setup fetches.
"""

import asyncio
import base64
import ctypes
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from edgeemo_runtime.model import MAX_BATCH
from edgeemo_runtime.serve import wire
from edgeemo_runtime.serve.audiosocket import AudioSocketConnection
from edgeemo_runtime.serve.calls import Calls
from edgeemo_runtime.serve.channel import Channel, Step
from edgeemo_runtime.serve.context import Service
from edgeemo_runtime.serve.doorman import Doorman
from edgeemo_runtime.serve.engine_process import EngineProcess
from edgeemo_runtime.serve.events import Event
from edgeemo_runtime.serve.formats import Format, parse_format
from edgeemo_runtime.serve.pool import Pool
from edgeemo_runtime.serve.rings import AudioWriter, SlotWriter, make_region
from edgeemo_runtime.serve.rtp import RtpPort
from edgeemo_runtime.serve.settings import Settings

MARK = 0x7A72
SAMPLES = 160  # 20 ms at 8 kHz
HOST = "127.0.0.1"
WIDTHS = {"audiosocket": 2, "rtp": 1, "websocket": 2, "twilio": 1}  # bytes of a sample
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
TEXT, BINARY = 0x81, 0x82
ANSWERED = ("answers", "changes")


def frame(kind: int, data: bytes) -> bytes:
    """A client's WebSocket frame (RFC 6455, 5.2), its mask zero."""
    length = struct.pack("!B", 0x80 | len(data)) if len(data) < 126 else struct.pack("!BH", 0x80 | 126, len(data))
    return bytes([kind]) + length + bytes(4) + data


class _Rings:
    """The pool's side of a call without engines: its ring, and the answers that come for it."""

    labels = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    answered = Pool.answered

    def __init__(self, calls: int) -> None:
        self.capacity = self.headroom = calls
        self.channels: dict[int, Channel] = {}
        self._memory = AudioWriter(make_region(calls), calls)

    def open(self, form: Format, user: str, step: Callable[[Step], None], closed: Callable[[str, int], None]) -> Channel:
        self.headroom -= 1
        channel = Channel(self.headroom, 1, SlotWriter(self._memory, self.headroom, form), user, step, closed)
        self.channels[channel.slot] = channel
        return channel


class Front:
    """A front's listeners with calls in them. ``send`` gives each a packet, ``take`` runs the loop until all are heard."""

    def __init__(self, protocol: str, calls: int) -> None:
        self.protocol, self.bytes = protocol, 0
        settings, self._rings = Settings(), _Rings(calls)
        self.calls = Calls(cast(Any, self._rings), settings)
        self._service = cast(Service, SimpleNamespace(settings=settings, calls=self.calls, doorman=Doorman(settings.limits)))
        self._listening = socket.create_server((HOST, 0))
        self._sockets: list[socket.socket] = []
        self._web: tuple[str, int] | None = None
        self._count = 0

    async def open(self, calls: int) -> None:
        self._sockets += [await getattr(self, f"_{self.protocol}")(number) for number in range(calls)]

    async def _audiosocket(self, number: int) -> socket.socket:
        theirs = socket.create_connection(self._listening.getsockname())
        ours, _ = self._listening.accept()
        ours.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: AudioSocketConnection(self._service), ours)
        theirs.sendall(struct.pack("!BH16s", 1, 16, number.to_bytes(16, "big")))
        return theirs

    async def _rtp(self, number: int) -> socket.socket:
        port = RtpPort(self._service, number)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: port, (HOST, 0))
        theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        theirs.connect(transport.get_extra_info("sockname"))
        return theirs

    async def _websocket(self, number: int) -> socket.socket:
        return await self._upgraded(number, {"edgeemo": 1, "call": str(number), "format": "s16", "rate": 8000})

    async def _twilio(self, number: int) -> socket.socket:
        start = {"streamSid": f"MZ{number}", "callSid": str(number), "tracks": ["inbound"], "customParameters": {}}
        form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        return await self._upgraded(number, {"event": "start", "start": {**start, "mediaFormat": form}})

    async def _upgraded(self, number: int, first: dict[str, Any]) -> socket.socket:
        """A client's socket behind the upgrade and the message that begins its call."""
        loop = asyncio.get_running_loop()
        if self._web is None:
            self._web = await self._serve()
        theirs = socket.create_connection(self._web)
        theirs.setblocking(False)
        await loop.sock_sendall(theirs, UPGRADE + KEY)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await loop.sock_recv(theirs, 4096)
        assert b" 101 " in answer
        await loop.sock_sendall(theirs, frame(TEXT, json.dumps(first).encode()))
        while str(number) not in self.calls.running:
            await asyncio.sleep(0)
        return theirs

    async def _serve(self) -> tuple[str, int]:
        """Address of a WebSocket listener."""
        from aiohttp import web
        from edgeemo_runtime.serve.websocket import WebSocketSession

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await WebSocketSession(self._service, cast(web.Request, request)).run()

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        await web.SockSite(runner, self._listening).start()
        return self._listening.getsockname()

    def _packet(self, number: int) -> bytes:
        """A call's next packet of 20 ms."""
        audio = bytes(SAMPLES * WIDTHS[self.protocol])
        if self.protocol == "rtp":
            return struct.pack("!BBHII", 0x80, 0, self._count, SAMPLES * self._count, number) + audio
        if self.protocol == "audiosocket":
            return struct.pack("!BH", 0x10, len(audio)) + audio
        if self.protocol == "websocket":
            return frame(BINARY, audio)
        media = {"track": "inbound", "chunk": str(self._count), "timestamp": str(20 * self._count)}
        media["payload"] = base64.b64encode(audio).decode()
        message = {"event": "media", "sequenceNumber": str(self._count), "media": media, "streamSid": f"MZ{number}"}
        return frame(TEXT, json.dumps(message).encode())

    def send(self) -> None:
        self._count += 1
        for number, one in enumerate(self._sockets):
            packet = self._packet(number)
            assert one.send(packet) == len(packet)
            self.bytes += SAMPLES * WIDTHS[self.protocol]

    async def take(self) -> None:
        while self.calls.bytes[self.protocol] < self.bytes:
            await asyncio.sleep(0)


class _Client:
    """Whoever is told of a call's events: they become what a connection would send."""

    def tell(self, event: Event) -> None:
        assert event.text


class Answers(Front):
    """A front with an engine's connection instead of callers'. ``send`` has each call answered once: with one label all the time,
    or, as "changes", with another each time, so that a segment ends and another begins."""

    def __init__(self, protocol: str, calls: int) -> None:
        super().__init__(protocol, calls)
        self._rows = np.zeros(calls, wire.result_type(len(_Rings.labels)))
        self._rows["slot"], self._rows["generation"] = np.arange(calls), 1
        self._rows["probabilities"] = self._rows["smoothed"] = 1 / len(_Rings.labels)

    async def open(self, calls: int) -> None:
        form, client = parse_format("s16", 8000), _Client()
        opened = [self.calls.open(str(n), self.protocol, "", ["caller"], form, sinks=[client]) for n in range(calls)]
        self._first = opened[0].legs["caller"].record  # its slot is the last: slots are given from the end
        ours, theirs = wire.pair()
        ours.setblocking(False)
        engine = EngineProcess(0, cast(Any, self._rings))
        engine._link, engine._models = ours, ["1"]
        asyncio.get_running_loop().add_reader(ours.fileno(), engine._receive)
        self._sockets.append(theirs)

    def send(self) -> None:
        self._count += 1
        self._rows["end_s"] = 0.16 * self._count
        if self.protocol == "changes":
            self._rows["label"] = self._count % 2
        for first in range(0, len(self._rows), MAX_BATCH):
            self._sockets[0].send(wire.RESULTS + self._rows[first : first + MAX_BATCH].tobytes())

    async def take(self) -> None:
        while self._first.steps < self._count:
            await asyncio.sleep(0)


def front_of(protocol: str, calls: int) -> Front:
    return (Answers if protocol in ANSWERED else Front)(protocol, calls)


async def run(protocol: str, calls: int, rounds: int, warm_up: int) -> None:
    front, mark = front_of(protocol, calls), ctypes.CDLL(None).syscall
    await front.open(calls)
    for number in range(warm_up + rounds):
        front.send()
        if number >= warm_up:
            mark(MARK, 1, 0)
        await front.take()
        mark(MARK, 2, 0)
    assert len(front.calls.running) == calls


def main() -> None:
    asyncio.run(run(sys.argv[1], *map(int, sys.argv[2:5])))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
