"""HTTP and WebSocket listeners: routes, who may use them, and bounds on connections. The page lives in page/."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.ops.lines import log
from edgeemo_runtime.serve.api import Api
from edgeemo_runtime.serve.auth import COOKIE
from edgeemo_runtime.serve.settings import TlsRules
from edgeemo_runtime.serve.websocket import WebSocketSession

if TYPE_CHECKING:
    from edgeemo_runtime.serve.service import Service

SEND_BYTES = 65_536  # of the kernel's queue to a client
MAX_BODY = 65_536  # bytes of a request
PROBES = ("/healthz", "/readyz")
OPEN_TO_ALL = (*PROBES, "/", "/page.css", "/page.js", "/microphone.js", "/v1/session")
FAILURE_S = 0.5  # before a failed authentication is answered
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Guarded(RequestHandler):
    """A connection that is counted by its address."""

    service: Service
    _address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        address = str((transport.get_extra_info("peername") or ("?",))[0])
        if self.service.doorman.enter(address):
            self._address = address
        else:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
        with contextlib.suppress(OSError):  # what a client leaves unread is kept here, not by megabytes in the kernel
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._address:
            self.service.doorman.leave(self._address)
            self._address = ""
        super().connection_lost(exc)


class WebServer:
    def __init__(self, service: Service) -> None:
        """Raises EdgeEmoError if certificates cannot be read."""
        self._service = service
        self._tls = tls_context(service.settings.tls)
        self._runner: web.AppRunner | None = None
        self.api = Api(service)

    async def serve(self, one: socket.socket) -> list[asyncio.Server]:
        """Listens at a bound socket."""
        if self._runner is None:
            application = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
            application.router.add_get("/", self._root)
            application.router.add_get("/v1/listen", self._websocket)
            self.api.add_routes(application)
            application.router.add_get("/{path:.*}", self._elsewhere)
            limits = self._service.settings.limits
            self._runner = web.AppRunner(
                application, access_log=None, handle_signals=False, keepalive_timeout=limits.handshake_s, shutdown_timeout=1.0
            )
            await self._runner.setup()
        server = self._runner.server
        assert server is not None
        guarded = type("Guarded", (_Guarded,), {"service": self._service})
        loop = asyncio.get_running_loop()
        made = await loop.create_server(
            lambda: guarded(server, loop=loop, **server._kwargs), sock=one, ssl=self._tls, backlog=512
        )  # fmt: skip
        return [made]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # -- who may -----------------------------------------------------------------------------------------------------------
    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        auth = self._service.auth
        upgrade = _is_upgrade(request)
        changes = upgrade or request.method not in ("GET", "HEAD")
        probed = request.path in PROBES and not upgrade  # by balancers, under whatever name, or none
        if not (probed or auth.host(request.headers)) or (changes and not auth.origin(request.headers)):
            return _plain(403, "this address or origin is not served; [auth] origins in serve.toml names others")
        if auth.asked and (upgrade or request.path not in OPEN_TO_ALL) and not self._known(request, upgrade):
            self._service.calls.refused["websocket" if upgrade else "http", "unauthorized"] += 1
            await asyncio.sleep(FAILURE_S)
            return _plain(401, "a token is asked for", {"WWW-Authenticate": "Bearer"})
        try:
            answer = await handler(request)
        except web.HTTPException as error:
            answer = _plain(error.status, error.reason)
        except EdgeEmoError as error:
            answer = _plain(400, first_line(error))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:  # one request must not end the others
            log("request_failed", path=request.path[:100], reason=f"{type(error).__name__}: {first_line(error)}")
            answer = _plain(500, "internal error")
        if not answer.prepared:
            answer.headers.update({k: v for k, v in HEADERS.items() if k not in answer.headers})
        return answer

    def _known(self, request: web.Request, upgrade: bool) -> bool:
        auth = self._service.auth
        if auth.headers(request.headers) or auth.session(request.cookies.get(COOKIE, "")):
            return True
        if not upgrade:
            return False
        base = self._service.settings.auth.twilio_url.rstrip("/")
        scheme = "wss" if self._tls is not None else "ws"
        url = (base or f"{scheme}://{request.headers.get('Host', '')}") + request.raw_path
        return auth.twilio(request.headers, url) or auth.audiohook(request.headers, request.raw_path)

    # -- what -------------------------------------------------------------------------------------------------------------
    async def _root(self, request: web.Request) -> web.StreamResponse:
        """The page; a call where a WebSocket is asked for, since telephone systems are often given an address without a path."""
        return await (self._websocket(request) if _is_upgrade(request) else self.api.page(request))

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        if not _is_upgrade(request):
            return _plain(426, "a WebSocket is listened for here", {"Upgrade": "websocket"})
        return await WebSocketSession(self._service, request).run()

    async def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        if _is_upgrade(request):  # sherpa-onnx, AudioHook and others bring paths of their own
            return await self._websocket(request)
        return _plain(404, "not found")


def _is_upgrade(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _plain(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers={**HEADERS, **(headers or {})})


def tls_context(rules: TlsRules) -> ssl.SSLContext | None:
    """Raises EdgeEmoError naming the file that cannot be read."""
    if not rules.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(rules.certificate, rules.key)
    except (OSError, ValueError) as error:
        raise EdgeEmoError(f"[tls] {rules.certificate}, {rules.key}: cannot be used ({first_line(error)})") from error
    if rules.client_ca:
        try:
            context.load_verify_locations(rules.client_ca)
        except (OSError, ValueError) as error:
            raise EdgeEmoError(f"[tls] {rules.client_ca}: cannot be used ({first_line(error)})") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context
