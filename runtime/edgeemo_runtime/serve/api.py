"""HTTP: health, metrics, results as JSON and as server-sent events, announcing calls, and the page's files."""

from __future__ import annotations

import asyncio
import collections
import json
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

from aiohttp import web

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.auth import COOKIE, SESSION_S
from edgeemo_runtime.serve.calls import CALL_ID, RefusedError
from edgeemo_runtime.serve.dialects.base import LEGS, MessageError, parse_object, text_of
from edgeemo_runtime.serve.events import VERSION, Curve, Event
from edgeemo_runtime.serve.figures import Figures
from edgeemo_runtime.serve.formats import parse_format

if TYPE_CHECKING:
    from edgeemo_runtime.serve.calls import Call, Leg
    from edgeemo_runtime.serve.context import Service

RECENT = 50  # events that a page which has just been opened is shown, and at most at once
LIVE_S = 0.5  # between two pictures of all calls
EXPECTED_S, MAX_EXPECTED_S = 60.0, 3600.0
PAGE = {
    "/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript"),
    "/microphone.js": ("microphone.js", "text/javascript"),
}  # fmt: skip


class Subscriber:
    """A client of server-sent events: a bounded queue."""

    def __init__(self, most: int, steps: bool, call: str = "") -> None:
        self.steps, self._most, self._call = steps, most, call
        self.waiting: collections.deque[Event] = collections.deque()
        self.some = asyncio.Event()
        self.slow = False

    def tell(self, event: Event) -> None:
        if self._call and event.call != self._call:
            return
        if len(self.waiting) >= self._most:
            self.slow = True
        else:
            self.waiting.append(event)
        self.some.set()


class Api:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._figures = Figures(service)
        self._subscribers = 0

    def add_routes(self, application: web.Application) -> None:
        router = application.router
        for path in PAGE:
            if path != "/":
                router.add_get(path, self.page)
        router.add_get("/healthz", self._health)
        router.add_get("/readyz", self._ready)
        router.add_get("/metrics", self._metrics)
        router.add_post("/v1/session", self._session)
        router.add_get("/v1/status", self._status)
        router.add_get("/v1/calls", self._calls)
        router.add_get("/v1/calls/{id}", self._call)
        router.add_get("/v1/calls/{id}/events", self._call_events)
        router.add_get("/v1/calls/{id}/curve", self._curve)
        router.add_get("/v1/events", self._events)
        router.add_get("/v1/live", self._live)
        router.add_put("/v1/expected/{id}", self._expect)
        router.add_post("/v1/rtp", self._announce_rtp)
        router.add_delete("/v1/rtp/{port}", self._end_rtp)
        router.add_post("/v1/drain", self._drain)

    async def page(self, request: web.Request) -> web.StreamResponse:
        name, kind = PAGE[request.path]
        text = resources.files("edgeemo_runtime.serve").joinpath("page", name).read_text()
        return web.Response(text=text, content_type=kind)

    # -- probes ------------------------------------------------------------------------------------------------------------
    async def _health(self, request: web.Request) -> web.StreamResponse:
        """Alive: answers while this process does."""
        return web.json_response({"status": "alive"})

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        """Whether another call is taken: 503 with the reason (full, draining) where none is."""
        service = self._service
        reason = service.readiness
        said = {"status": reason or "ready", "channels": len(service.pool.channels), "capacity": service.pool.capacity}
        return web.json_response(said, status=503 if reason else 200, headers={"Retry-After": "1"} if reason else {})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=await self._figures.page(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._figures.status())

    async def _drain(self, request: web.Request) -> web.StreamResponse:
        """No new calls from now on; the process goes on until it is told to end."""
        self._service.calls.draining = True
        return web.json_response({"status": "draining", "calls": len(self._service.calls.running)})

    async def _session(self, request: web.Request) -> web.StreamResponse:
        """A cookie for the page, for a token."""
        auth = self._service.auth
        if auth.asked and not auth.headers(request.headers):
            await asyncio.sleep(0.5)
            raise web.HTTPUnauthorized
        answer = web.json_response({"status": "known"})
        if auth.asked:
            secure = request.transport is not None and request.transport.get_extra_info("sslcontext") is not None
            answer.set_cookie(
                COOKIE, auth.begin_session(), max_age=int(SESSION_S), httponly=True, samesite="Strict", secure=secure
            )
        return answer

    # -- results -----------------------------------------------------------------------------------------------------------
    async def _calls(self, request: web.Request) -> web.StreamResponse:
        calls = self._service.calls
        running = [call.document() for call in calls.running.values()]
        return web.json_response({"v": VERSION, "running": running, "ended": list(calls.ended)[-100:]})

    async def _call(self, request: web.Request) -> web.StreamResponse:
        """A running call so far, or the summary of one that has ended."""
        call_id = request.match_info["id"]
        running, ended = self._service.calls.running.get(call_id), self._service.calls.ended.get(call_id)
        if running is not None:
            return web.json_response({"v": VERSION, "running": True, **running.document()})
        if ended is None:
            raise web.HTTPNotFound
        return web.json_response({"v": VERSION, "running": False, **ended})

    async def _curve(self, request: web.Request) -> web.StreamResponse:
        """Every step of a running call: [end_s, label index, confidence, late_ms], by leg."""
        call = self._service.calls.running.get(request.match_info["id"])
        if call is None:
            raise web.HTTPNotFound
        legs = {name: leg.curve.last(Curve.KEPT) for name, leg in call.legs.items()}
        return web.json_response({"v": VERSION, "labels": self._service.pool.labels, "legs": legs})

    async def _call_events(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, request.match_info["id"])

    async def _events(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, "")

    async def _stream(self, request: web.Request, call_id: str) -> web.StreamResponse:
        """Events as they come, as server-sent events (WHATWG HTML, 9.2); one call's stream ends with it."""
        calls, limits = self._service.calls, self._service.settings.limits
        subscriber = Subscriber(limits.unread_events, request.query.get("steps") == "1", call_id)
        answer = await self._begin_stream(request)
        calls.subscribe(subscriber)
        try:
            while not subscriber.slow:
                if not subscriber.waiting:
                    subscriber.some.clear()
                    try:
                        await asyncio.wait_for(subscriber.some.wait(), 15.0)
                    except TimeoutError:
                        await answer.write(b": nothing new\n\n")
                        continue
                while subscriber.waiting:
                    event = subscriber.waiting.popleft()
                    await asyncio.wait_for(answer.write(f"event: {event.type}\ndata: {event.text}\n\n".encode()), 10.0)
                    if call_id and event.type == "end":
                        return answer
            calls.left_out["sse"] += len(subscriber.waiting)
        except (ConnectionError, TimeoutError):
            calls.left_out["sse"] += len(subscriber.waiting)
        finally:
            self._subscribers -= 1
            calls.unsubscribe(subscriber)
        if request.transport is not None:
            request.transport.abort()
        return answer

    async def _begin_stream(self, request: web.Request) -> web.StreamResponse:
        if self._subscribers >= self._service.settings.limits.subscribers:
            raise web.HTTPServiceUnavailable
        self._subscribers += 1
        answer = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        try:
            await answer.prepare(request)
        except BaseException:
            self._subscribers -= 1
            raise
        return answer

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """For the page: a picture of all calls twice a second, with the steps since the last; and the events in between."""
        answer = await self._begin_stream(request)
        seen: dict[tuple[str, str], int] = {}
        told = max(0, self._service.calls.told - RECENT)
        try:
            while True:
                picture = self._picture(seen)
                calls = self._service.calls
                new = min(calls.told - told, len(calls.recent), RECENT)
                picture["events"] = [calls.recent[i].data for i in range(len(calls.recent) - new, len(calls.recent))]
                told = calls.told
                await asyncio.wait_for(answer.write(f"data: {json.dumps(picture, separators=(',', ':'))}\n\n".encode()), 10.0)
                await asyncio.sleep(LIVE_S)
        except (ConnectionError, TimeoutError):
            return answer
        finally:
            self._subscribers -= 1

    def _picture(self, seen: dict[tuple[str, str], int]) -> dict[str, Any]:
        service = self._service
        calls = []
        for call in service.calls.running.values():
            for leg in call.legs.values():
                calls.append(_row(call, leg, seen.get((call.id, leg.name), 0)))
                seen[call.id, leg.name] = leg.record.steps
        for key in [k for k in seen if k[0] not in service.calls.running]:
            del seen[key]
        pool = service.pool
        return {
            "labels": pool.labels, "calls": calls, "channels": len(pool.channels), "capacity": pool.capacity,
            "ready": service.readiness or "ready", "engines": sum(e.ready for e in pool.engines), "restarts": pool.restarts,
        }  # fmt: skip

    # -- announcing --------------------------------------------------------------------------------------------------------
    async def _expect(self, request: web.Request) -> web.StreamResponse:
        """An AudioSocket call of this id may come, where only announced ones may."""
        call_id = request.match_info["id"].lower()
        if not CALL_ID.fullmatch(call_id):
            raise EdgeEmoError("a call's id is 1 to 128 letters, digits or one of . : @ + / = _ -")
        seconds = request.query.get("seconds", str(EXPECTED_S))
        try:
            asked = float(seconds)
        except ValueError:
            raise EdgeEmoError("seconds is a number") from None
        if not 0 < asked <= MAX_EXPECTED_S:
            raise EdgeEmoError(f"seconds lie in (0, {MAX_EXPECTED_S:.0f}]")
        self._service.calls.expect(call_id, asked)
        return web.json_response({"call": call_id, "seconds": asked})

    async def _announce_rtp(self, request: web.Request) -> web.StreamResponse:
        """A port for an RTP call that will come: {"call", "leg", "user", "format", "rate"}."""
        try:
            said = parse_object(await request.text())
        except (MessageError, UnicodeDecodeError):
            raise EdgeEmoError("the body is a JSON object") from None
        call, leg = text_of(said.get("call")), said.get("leg", LEGS[0])
        if not CALL_ID.fullmatch(call) or leg not in LEGS:
            raise EdgeEmoError(f"call is an id, leg one of {', '.join(LEGS)}")
        encoding = said.get("format")
        if isinstance(encoding, str) and encoding.upper() == "L16":
            encoding = "s16be"
        form = parse_format(encoding, said.get("rate", 8000)) if encoding is not None else None
        try:
            host, port = self._service.rtp.announce(call, leg, text_of(said.get("user")), form)
        except RefusedError as refused:
            return web.json_response({"status": refused.code, "reason": str(refused)}, status=503)
        return web.json_response({"call": call, "leg": leg, "host": host, "port": port})

    async def _end_rtp(self, request: web.Request) -> web.StreamResponse:
        number = request.match_info["port"]
        if not (number.isascii() and number.isdigit() and self._service.rtp.end(int(number))):
            raise web.HTTPNotFound
        return web.json_response({"status": "ended"})


def _row(call: Call, leg: Leg, seen: int) -> dict[str, Any]:
    steps = leg.curve.last(max(0, leg.record.steps - seen))
    segment = leg.record.segment
    return {
        "call": call.id, "leg": leg.name, "protocol": call.protocol, "user": call.user,
        "seconds": round(time.monotonic() - call.began),
        "label": segment.label if segment else None, "intensity": (segment.intensity if segment else "") or None,
        "handoff": leg.record.handoff or None, "steps": steps,
    }  # fmt: skip
