"""One client of each protocol: opens a call, sends packets, says which protocol needs what. Results come back by results.py."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
import uuid
from typing import Any, ClassVar

import aiohttp

from edgeemo_runtime.errors import EdgeEmoError, first_line

PACKET_S = 0.02
RATE = 8000
SAMPLES = int(PACKET_S * RATE)


def mulaw_bytes(samples: Any) -> bytes:
    """int16 to G.711 mu-law: of the 256 values, the nearest."""
    import numpy as np

    from edgeemo_runtime.g711 import MULAW

    order = np.argsort(MULAW, kind="stable")
    values = MULAW[order].astype(np.int32)
    right = np.clip(np.searchsorted(values, samples), 1, 255)
    nearer = (np.asarray(samples, dtype=np.int32) - values[right - 1]) <= (values[right] - samples)
    return order[np.where(nearer, right - 1, right)].astype(np.uint8).tobytes()


class Client:
    """One call. ``send`` gets the packet's number and its audio in ``encoding``; True in ``ordered``: packets cannot overtake."""

    name: ClassVar[str]
    encoding: ClassVar[str] = "s16"
    ordered: ClassVar[bool] = True
    own_results: ClassVar[bool] = True  # answers come on the same connection

    def __init__(self, address: str, number: int, http: str, headers: dict[str, str]) -> None:
        self.address, self.number, self.http, self.headers = address, number, http, headers
        self.call = str(uuid.uuid4())
        self.opened = self.ended = False  # the latter by the server
        self.told: Any = None  # called with each event

    async def open(self) -> None: ...
    async def send(self, number: int, data: bytes) -> None: ...
    async def close(self) -> None: ...
    async def drop(self) -> None:
        """Ends the connection without a word, as a client that crashes; there may be none."""


class WebSocketClient(Client):
    query = ""
    _session: aiohttp.ClientSession | None = None
    _reader: asyncio.Task | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession()
        try:
            self._socket = await self._session.ws_connect(
                f"{self.address}/v1/listen{self.query}", compress=0, headers=self.headers, max_msg_size=1 << 20
            )
            self._reader = asyncio.ensure_future(self._read())
            await self.greet()
            self.opened = True
        except (aiohttp.ClientError, OSError) as error:
            await self.drop()
            raise EdgeEmoError(f"{self.address}: no WebSocket can be had ({first_line(error)})") from error

    async def greet(self) -> None: ...

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                self.told(json.loads(message.data))
        self.ended = True

    async def send(self, number: int, data: bytes) -> None:
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await self._socket.send_bytes(data)

    async def end(self) -> None:
        """Says that the audio has ended."""

    async def close(self) -> None:
        if self._session is None:
            return
        with contextlib.suppress(ConnectionError, aiohttp.ClientError, TimeoutError, RuntimeError):
            await self.end()
            if self._reader is not None:
                await asyncio.wait_for(asyncio.shield(self._reader), 10.0)
        await self._socket.close()
        await self.drop()

    async def drop(self) -> None:
        self.opened = False
        reader, session = self._reader, self._session
        self._reader = self._session = None
        if reader is not None:
            reader.cancel()
        if session is not None:
            await session.close()


class Binary(WebSocketClient):
    name = "websocket"

    async def greet(self) -> None:
        await self._socket.send_str(json.dumps({"edgeemo": 1, "format": "s16", "rate": RATE, "call": self.call, "steps": True}))

    async def end(self) -> None:
        await self._socket.send_str('{"end": true}')


class TwilioJson(WebSocketClient):
    name = "twilio"
    encoding = "mulaw"
    query = "?results=1&steps=1"

    async def greet(self) -> None:
        start = {"callSid": self.call, "accountSid": "AC0", "tracks": ["inbound"]}
        start["mediaFormat"] = {"encoding": "audio/x-mulaw", "sampleRate": RATE, "channels": 1}  # type: ignore[assignment]
        await self._socket.send_str('{"event": "connected", "protocol": "Call", "version": "1.0.0"}')
        await self._socket.send_str(json.dumps({"event": "start", "streamSid": "MZ" + self.call, "start": start}))

    async def send(self, number: int, data: bytes) -> None:
        media = {
            "track": "inbound",
            "chunk": str(number + 1),
            "timestamp": str(20 * number),
            "payload": base64.b64encode(data).decode(),
        }
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await self._socket.send_str(json.dumps({"event": "media", "streamSid": "MZ" + self.call, "media": media}))

    async def end(self) -> None:
        await self._socket.send_str(json.dumps({"event": "stop", "streamSid": "MZ" + self.call}))


class AudioSocket(Client):
    name = "audiosocket"
    own_results = False
    _watch: asyncio.Task | None = None

    async def open(self) -> None:
        host, _, port = self.address.rpartition(":")
        try:
            self._reader, self._writer = await asyncio.open_connection(host, int(port))
        except OSError as error:
            raise EdgeEmoError(f"{self.address}: no AudioSocket can be had ({first_line(error)})") from error
        self._writer.write(b"\x01\x00\x10" + uuid.UUID(self.call).bytes)
        self._watch = asyncio.ensure_future(self._until_end())
        self.opened = True

    async def _until_end(self) -> None:
        with contextlib.suppress(OSError):
            await self._reader.read()
        self.ended = True

    async def send(self, number: int, data: bytes) -> None:
        if not self._writer.is_closing() and not self.ended:
            self._writer.write(b"\x10" + len(data).to_bytes(2, "big") + data)

    async def close(self) -> None:
        self._writer.write(b"\0\0\0")
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        await self.drop()

    async def drop(self) -> None:
        self.opened = False
        if self._watch is not None:
            self._watch.cancel()
            self._writer.transport.abort()


class Rtp(Client):
    name = "rtp"
    encoding = "mulaw"
    ordered = False
    own_results = False
    _socket: socket.socket | None = None

    async def open(self) -> None:
        """Announces the call over HTTP, as a telephone system's application does, and so learns its port."""
        async with aiohttp.ClientSession(headers=self.headers) as session:
            try:
                async with session.post(f"{self.http}/v1/rtp", json={"call": self.call}) as answer:
                    if answer.status != 200:
                        raise EdgeEmoError(
                            f"{self.http}: no RTP port ({answer.status} {first_line(Exception(await answer.text()))})"
                        )
                    said = await answer.json()
            except aiohttp.ClientError as error:
                raise EdgeEmoError(f"{self.http}: cannot be asked for an RTP port ({first_line(error)})") from error
        self._port, self.opened = said["port"], True
        self._socket = socket.socket(socket.AF_INET6 if ":" in said["host"] else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect((said["host"], said["port"]))
        seed = uuid.UUID(self.call).int
        self._first, self._stamp, self._ssrc = seed & 0xFFFF, seed >> 16 & 0xFFFFFFFF, seed >> 48 & 0xFFFFFFFF

    async def send(self, number: int, data: bytes) -> None:
        stamp = (self._stamp + number * SAMPLES) & 0xFFFFFFFF
        head = struct.pack("!BBHII", 0x80, 0 if number else 0x80, (self._first + number) & 0xFFFF, stamp, self._ssrc)
        assert self._socket is not None
        with contextlib.suppress(OSError):
            self._socket.send(head + data)

    async def drop(self) -> None:
        """RTP has no connection: packets just end, and the port is free again after ``idle_s``."""
        if self._socket is not None:
            self._socket.close()

    async def close(self) -> None:
        if self._socket is None:
            return
        self._socket.close()
        async with aiohttp.ClientSession(headers=self.headers) as session:
            with contextlib.suppress(aiohttp.ClientError):
                await session.delete(f"{self.http}/v1/rtp/{self._port}")


CLIENTS: dict[str, type[Client]] = {c.name: c for c in (Binary, TwilioJson, AudioSocket, Rtp)}
