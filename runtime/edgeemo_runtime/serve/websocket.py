"""One WebSocket connection: the upgrade, its dialect, what goes back."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.ops.lines import log
from edgeemo_runtime.serve.calls import CLOSING_S, Call, Leg, RefusedError
from edgeemo_runtime.serve.dialects import SUBPROTOCOLS, Dialect, MessageError, by_text, by_upgrade
from edgeemo_runtime.serve.dialects.speech_servers import SherpaOnnx
from edgeemo_runtime.serve.formats import Format

if TYPE_CHECKING:
    from edgeemo_runtime.serve.context import Service

HEARTBEAT_S = 20.0  # pings; a client that does not answer is gone
MAX_REASON = 120  # bytes of a closing frame's reason


class WebSocketSession:
    """A connection as its dialect sees it (dialects/base.py), and what runs it."""

    def __init__(self, service: Service, request: web.Request) -> None:
        self._service, self._request = service, request
        self.query, self.headers = dict(request.query), request.headers
        self.peer = request.remote or "?"
        self._socket = web.WebSocketResponse(
            protocols=SUBPROTOCOLS, heartbeat=HEARTBEAT_S, compress=False, max_msg_size=service.settings.limits.message_bytes
        )
        self._dialect: Dialect | None = None
        self._call: Call | None = None
        self._legs: list[Leg] = []
        self._outgoing: collections.deque[str] = collections.deque()
        self._size = 0
        self._some = asyncio.Event()
        self._closing: tuple[int, str] | None = None

    # -- for dialects ----------------------------------------------------------------------------------------------------
    def open(self, call_id: str, legs: Sequence[str], form: Format, user: str = "") -> Call:
        """A call whose events this connection's dialect is told. Raises RefusedError."""
        assert self._dialect is not None
        dialect = self._dialect
        self._call = self._service.calls.open(call_id, dialect.name, self.peer, legs, form, user, [dialect])
        self._legs = [self._call.legs[leg] for leg in legs]
        self._call.hang_ups.append(dialect.hang_up)
        self._call.done.add_done_callback(lambda _: self._some.set())
        return self._call

    def send(self, text: str) -> None:
        """Queues a message. Who leaves too much unread is dropped."""
        limits = self._service.settings.limits
        self._outgoing.append(text)
        self._size += len(text)
        if self._size > limits.unread_bytes or len(self._outgoing) > limits.unread_events:
            self._service.calls.left_out["websocket"] += len(self._outgoing)
            self._outgoing.clear()
            self._size = 0
            log("slow_reader_dropped", peer=self.peer)
            if self._request.transport is not None:
                self._request.transport.abort()
        self._some.set()

    def close(self, code: int, reason: str) -> None:
        """Closes after the call's last answers, and what else is queued, have been sent."""
        self._closing = self._closing or (code, reason)
        self._some.set()

    # -- the connection --------------------------------------------------------------------------------------------------
    async def run(self) -> web.StreamResponse:
        asked = [s.strip() for s in self.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        try:
            known = by_upgrade(self.query, self.headers, asked)
        except MessageError as error:
            return web.Response(status=400, text=f"{error}\n")
        await self._socket.prepare(self._request)
        if known is not None:
            self._dialect = known(self)
        writer = asyncio.ensure_future(self._write())
        try:
            await self._read()
        finally:
            if self._call is not None:
                with contextlib.suppress(ValueError):
                    self._call.hang_ups.remove(self._dialect.hang_up)  # type: ignore[union-attr]  # who has a call has a dialect
                self._call.finish("closed", [leg.name for leg in self._legs])
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await writer
            await self._close()
        return self._socket

    async def _close(self) -> None:
        code, reason = self._closing or (1000, "")
        with contextlib.suppress(ConnectionError, RuntimeError):
            await self._socket.close(code=code, message=reason.encode("ascii", "replace")[:MAX_REASON])

    async def _read(self) -> None:
        """Messages until the client or the call has ended; then what the engines still have to say is waited for."""
        try:
            message = await self._first()
            while self._closing is None and message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                assert self._dialect is not None
                if message.type == WSMsgType.TEXT:
                    self._dialect.text(message.data)
                else:
                    self._dialect.binary(message.data)
                call = self._call
                if call is None:
                    message = await self._soon()
                    continue
                ending = True
                for leg in self._legs:
                    if leg.waiting:
                        await call.drain(leg.name)
                    ending = ending and leg.ending
                if ending:
                    await self._ended()
                    return
                message = await self._socket.receive()
            if message.type == WSMsgType.ERROR:
                self._service.calls.bad_message(self._name)
        except RefusedError as refused:
            assert self._dialect is not None
            self._dialect.refused(refused.code, str(refused))
            await self._sent()
        except (MessageError, EdgeEmoError) as error:
            self._service.calls.bad_message(self._name)
            self.close(1008, first_line(error))
            await self._sent()
        except TimeoutError:
            self._service.calls.bad_message(self._name)
            self.close(1008, "no message came in time")
        if self._closing is not None:
            await self._sent()

    @property
    def _name(self) -> str:
        return self._dialect.name if self._dialect is not None else "websocket"

    async def _first(self):  # type: ignore[no-untyped-def]  # aiohttp's message
        """The first message, by which a dialect is known where the upgrade did not say."""
        message = await self._soon()
        if self._dialect is None and message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            kind = by_text(message.data) if message.type == WSMsgType.TEXT else SherpaOnnx
            self._dialect = kind(self)
        return message

    async def _soon(self):  # type: ignore[no-untyped-def]  # aiohttp's message
        """The next message of a connection without a call, for which it has not got long."""
        return await asyncio.wait_for(self._socket.receive(), self._service.settings.limits.handshake_s)

    async def _ended(self) -> None:
        """The client has said that its audio has ended: it gets the rest of the answers, then a closing frame."""
        assert self._call is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._call.done), CLOSING_S)
        self.close(1000, "")
        await self._sent()

    async def _sent(self) -> None:
        """Until what is queued has been sent, or for a second."""
        ends = asyncio.get_running_loop().time() + 1.0
        while self._outgoing and asyncio.get_running_loop().time() < ends and not self._socket.closed:
            await asyncio.sleep(0.005)

    async def _write(self) -> None:
        while True:
            while self._outgoing:
                text = self._outgoing[0]
                try:
                    await self._socket.send_str(text)
                except (ConnectionError, RuntimeError):  # closed meanwhile
                    return
                if self._outgoing and self._outgoing[0] is text:
                    self._outgoing.popleft()
                    self._size -= len(text)
            if self._closing is not None and (self._call is None or self._call.done.done()):
                await self._close()
                return
            self._some.clear()
            await self._some.wait()
