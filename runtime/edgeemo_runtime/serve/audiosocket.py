"""Asterisk's AudioSocket: TCP, framed; we listen, Asterisk dials (`AudioSocket(uuid,host:port)` or an externalMedia channel).

Frame: type (1 byte), length (2, big-endian), payload; docs.asterisk.org, Channel Drivers, AudioSocket. The first frame is the
call's UUID. Nothing is sent back but the end of a call that is refused: events go elsewhere, by that UUID.
"""

from __future__ import annotations

import asyncio
import collections
import time
import uuid
from typing import TYPE_CHECKING

from edgeemo_runtime.serve.calls import Call, RefusedError
from edgeemo_runtime.serve.formats import Format

if TYPE_CHECKING:
    from edgeemo_runtime.serve.service import Service

HANGUP, UUID, DTMF, ERROR = 0x00, 0x01, 0x03, 0xFF
# Signed 16-bit little-endian mono by frame type: its rate, Hz.
RATES = {0x10: 8000, 0x11: 12000, 0x12: 16000, 0x13: 24000, 0x14: 32000, 0x15: 44100, 0x16: 48000, 0x17: 96000, 0x18: 192000}
HEADER = 3
RESUME_S = 0.02
PROTOCOL = "audiosocket"


class AudioSocketFrames:
    """Bytes as they come to whole frames. Any split of a stream gives the same frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames (type, payload) that are whole now."""
        self._data += data
        frames, at = [], 0
        view = self._data
        while len(view) - at >= HEADER:
            size = view[at + 1] << 8 | view[at + 2]
            if len(view) - at - HEADER < size:
                break
            frames.append((view[at], bytes(view[at + HEADER : at + HEADER + size])))
            at += HEADER + size
        del self._data[:at]
        return frames


class AudioSocketConnection(asyncio.Protocol):
    """One call."""

    def __init__(self, service: Service) -> None:
        self._service, self._frames = service, AudioSocketFrames()
        self._transport: asyncio.Transport | None = None
        self._address = ""
        self._inside = self._paused = False
        self._waiting: collections.deque[tuple[int, bytes]] = collections.deque()
        self._lost = ""  # why the connection has ended
        self._id = ""
        self._kind: int | None = None
        self._call: Call | None = None
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._address = str((transport.get_extra_info("peername") or ("?",))[0])
        service = self._service
        if not service.settings.audiosocket.allows(self._address) or not service.doorman.enter(self._address):
            service.calls.refused[PROTOCOL, "address"] += 1
            transport.abort()
            return
        self._inside = True
        self._timer = asyncio.get_running_loop().call_later(service.settings.limits.handshake_s, self._too_slow)

    def _too_slow(self) -> None:
        if self._call is None:
            self._wrong()

    def data_received(self, data: bytes) -> None:
        self._waiting += self._frames.feed(data)
        if not self._paused:
            self._work()

    def _work(self) -> None:
        """Handles what has come. While the call's ring is full nothing more is read: TCP slows down who sends faster than real
        time."""
        self._paused = False
        while self._waiting:
            kind, payload = self._waiting[0]
            if kind in RATES and self._call is not None and self._full(len(payload)):
                self._paused = True
                self._call.heard = time.monotonic()
                if self._transport is not None:
                    self._transport.pause_reading()
                asyncio.get_running_loop().call_later(RESUME_S, self._work)
                return
            self._waiting.popleft()
            self._frame(kind, payload)
        if self._lost:
            self._end(self._lost)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _full(self, size: int) -> bool:
        assert self._call is not None
        channel = self._call.legs["caller"].channel
        return channel is not None and channel.writer.room() < size

    def _frame(self, kind: int, payload: bytes) -> None:
        if self._ended:
            return
        if kind in RATES:
            if self._call is None or kind != self._kind:
                self._begin(kind)
            if self._call is not None and kind == self._kind:
                self._call.write("caller", payload)
        elif kind == UUID and len(payload) == 16 and not self._id:
            self._id = str(uuid.UUID(bytes=payload))
        elif kind == HANGUP:
            self._end("hangup")
        elif kind == ERROR:
            self._end("error")
        elif kind != DTMF:
            self._wrong()

    def _begin(self, kind: int) -> None:
        service = self._service
        if not self._id or self._call is not None:
            self._wrong()
            return
        try:
            if service.settings.audiosocket.known_calls and not service.calls.take_expected(self._id):
                service.calls.refused[PROTOCOL, "unexpected"] += 1
                raise RefusedError("unexpected", "this call was not announced")
            self._call = service.calls.open(self._id, PROTOCOL, self._address, ["caller"], Format("s16", RATES[kind]))
        except RefusedError:
            self._refuse()
            return
        self._kind = kind
        self._call.hang_ups.append(lambda _: self._refuse())

    def _refuse(self) -> None:
        """Asterisk hangs up on its side when told so."""
        self._ended = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"\0\0\0")
            self._transport.close()

    def _wrong(self) -> None:
        self._service.calls.bad_message(PROTOCOL)
        self._end("protocol error")

    def _end(self, reason: str) -> None:
        self._waiting.clear()
        self._ended = True
        if self._call is not None:
            self._call.finish(reason)
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._inside:
            self._service.doorman.leave(self._address)
        self._lost, self._transport = "connection lost" if error else "closed", None
        if not self._paused:
            self._work()
