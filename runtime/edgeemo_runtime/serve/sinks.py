"""Sinks of events besides the sockets that calls come on: MQTT and webhooks. Neither is waited for; queues are bounded."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hmac
import random
import ssl
import time
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.ops.lines import log
from edgeemo_runtime.serve.calls import Calls
from edgeemo_runtime.serve.events import Event
from edgeemo_runtime.serve.settings import Settings, read_secret

MAX_WAIT_S = 30.0  # between two attempts
REQUEST_S = 10.0  # that a webhook's answer may take
AT_ONCE = 4  # webhook requests; the events of one call go one after the other


class Runner(Protocol):
    """A sink with a task of its own."""

    def tell(self, event: Event) -> None: ...
    async def run(self) -> None: ...
    async def close(self) -> None: ...


class EventQueue:
    """Events that wait for somebody slow: at most so many, the oldest make room and are counted."""

    def __init__(self, name: str, calls: Calls, types: tuple[str, ...], most: int) -> None:
        self.name, self._calls, self._types, self._most = name, calls, frozenset(types), most
        self._waiting: collections.deque[Event] = collections.deque()
        self._some = asyncio.Event()
        self.steps = "step" in self._types

    def tell(self, event: Event) -> None:
        if event.type not in self._types:
            return
        if len(self._waiting) >= self._most:
            self._waiting.popleft()
            self._calls.left_out[self.name] += 1
        self._waiting.append(event)
        self._some.set()

    async def next(self) -> Event:
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        return self._waiting.popleft()

    def again(self, event: Event) -> None:
        """Puts back what could not be delivered, to be next."""
        self._waiting.appendleft(event)
        self._some.set()

    def __len__(self) -> int:
        return len(self._waiting)


def backoff(attempt: int) -> float:
    """Seconds to wait after ``attempt`` failures, half of it at random so that many do not come back at once."""
    return min(MAX_WAIT_S, 0.5 * 2**attempt) * (0.5 + random.random() / 2)


class MqttSink:
    """Publishes each event to TOPIC/CALL/TYPE (quality of service 1). A broker that is away is tried again and again."""

    def __init__(self, settings: Settings, calls: Calls) -> None:
        """Raises EdgeEmoError where aiomqtt is missing, or the password cannot be read."""
        try:
            import aiomqtt  # noqa: F401
        except ImportError as error:
            raise EdgeEmoError("mqtt needs aiomqtt: pip install 'edgeemo-runtime[serve]'") from error
        rules = settings.results
        parts = urlsplit(rules.mqtt)
        if not parts.hostname:
            raise EdgeEmoError("mqtt names no host; write mqtt://127.0.0.1:1883/edgeemo")
        self._topic = parts.path.strip("/") or "edgeemo"
        self._options: dict[str, Any] = {
            "hostname": parts.hostname, "port": parts.port or (8883 if parts.scheme == "mqtts" else 1883),
            "username": unquote(parts.username) if parts.username else None,
            "password": read_secret(rules.mqtt_password) if rules.mqtt_password else None,
            "tls_context": ssl.create_default_context() if parts.scheme == "mqtts" else None,
        }  # fmt: skip
        self._queue = EventQueue("mqtt", calls, rules.events, settings.limits.unread_events)
        self.steps, self.tell = self._queue.steps, self._queue.tell
        self.connected = False

    async def run(self) -> None:
        import aiomqtt

        attempt = 0
        while True:
            try:
                async with aiomqtt.Client(**self._options, timeout=REQUEST_S) as client:
                    if attempt:
                        log("mqtt_connected", waiting=len(self._queue))
                    attempt, self.connected = 0, True
                    await self._publish(client)
            except aiomqtt.MqttError as error:
                if not attempt:
                    log("mqtt_lost", reason=first_line(error))
                self.connected = False
                attempt += 1
                await asyncio.sleep(backoff(attempt))

    async def _publish(self, client: Any) -> None:
        while True:
            event = await self._queue.next()
            call = event.call.replace("+", "_").replace("#", "_").replace("/", "_")  # what topics give a meaning to
            try:
                await client.publish(f"{self._topic}/{call}/{event.type}", event.text, qos=1)
            except BaseException:
                self._queue.again(event)
                raise

    async def close(self) -> None:
        """Publishes what waits, as far as a second goes."""
        ends = time.monotonic() + 1.0
        while self.connected and len(self._queue) and time.monotonic() < ends:
            await asyncio.sleep(0.02)


def sign(secret: bytes, stamp: int, body: bytes) -> str:
    """Value of X-EdgeEmo-Signature: the time, and HMAC-SHA256 over time, a dot and the body, in hex."""
    return f"t={stamp},v1={hmac.new(secret, f'{stamp}.'.encode() + body, 'sha256').hexdigest()}"


class WebhookSink:
    """POSTs each event as JSON. Anything but 2xx is tried again, later each time; calls' events stay in order."""

    def __init__(self, settings: Settings, calls: Calls) -> None:
        """Raises EdgeEmoError if the secret cannot be read."""
        rules = settings.results
        self._url, self._tries, self._calls = rules.webhook, rules.tries, calls
        self._secret = read_secret(rules.webhook_secret).encode() if rules.webhook_secret else b""
        each = max(1, settings.limits.unread_events // AT_ONCE)
        self._queues = [EventQueue("webhook", calls, rules.events, each) for _ in range(AT_ONCE)]
        self.steps = self._queues[0].steps
        self.delivered = 0
        self._busy = 0

    def tell(self, event: Event) -> None:
        self._queues[hash(event.call) % AT_ONCE].tell(event)

    async def run(self) -> None:
        import aiohttp

        options = aiohttp.ClientTimeout(total=REQUEST_S)
        async with aiohttp.ClientSession(timeout=options, auto_decompress=False) as session:
            await asyncio.gather(*(self._deliver_all(session, queue) for queue in self._queues))

    async def _deliver_all(self, session: Any, queue: EventQueue) -> None:
        while True:
            event = await queue.next()
            self._busy += 1
            try:
                await self._deliver(session, event)
            finally:
                self._busy -= 1

    async def _deliver(self, session: Any, event: Event) -> None:
        body = event.text.encode()
        reason = ""
        for attempt in range(self._tries):
            headers = {"Content-Type": "application/json", "User-Agent": "edgeemo-serve"}
            if self._secret:
                headers["X-EdgeEmo-Signature"] = sign(self._secret, int(time.time()), body)
            try:
                async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                    if 200 <= answer.status < 300:
                        self.delivered += 1
                        return
                    reason = f"status {answer.status}"
            except Exception as error:  # whatever a foreign server does to a client
                reason = type(error).__name__
            if attempt + 1 < self._tries:
                await asyncio.sleep(backoff(attempt))
        self._calls.left_out["webhook"] += 1
        log("webhook_given_up", call=event.call, type=event.type, tries=self._tries, reason=reason)

    async def close(self) -> None:
        """Delivers what waits, as far as a second goes."""
        ends = time.monotonic() + 1.0
        with contextlib.suppress(asyncio.CancelledError):
            while (self._busy or any(len(q) for q in self._queues)) and time.monotonic() < ends:
                await asyncio.sleep(0.02)


def make_sinks(settings: Settings, calls: Calls) -> list[Runner]:
    """Those that the settings ask for, already told of every call. Raises EdgeEmoError."""
    made: list[Runner] = []
    if settings.results.mqtt:
        made.append(MqttSink(settings, calls))
    if settings.results.webhook:
        made.append(WebhookSink(settings, calls))
    for sink in made:
        calls.subscribe(sink)
    return made
