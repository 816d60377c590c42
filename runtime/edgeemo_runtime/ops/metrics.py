"""Prometheus metrics of an engine (the extra edgeemo-runtime[ops]), served without a thread: asked for between two steps."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

from edgeemo_runtime.counters import LATENCY_BUCKETS
from edgeemo_runtime.decision import REASONS
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError

POLL_S = 0.002  # that answering may take between two steps
CLIENT_S = 2.0  # that one who connected may take
PAGE_S = 0.5  # that a page is good for
MAX_CLIENTS = 8
MAX_REQUEST = 4096  # bytes


class EngineCollector:
    """Counters of an engine in Prometheus's types, made when asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        engine = self.engine
        yield GaugeMetricFamily("edgeemo_streams", "Calls that are open.", value=engine.open_streams)
        yield GaugeMetricFamily("edgeemo_streams_max", "Calls that may be open.", value=engine.max_streams)
        for name, value in engine.counters.document().items():
            yield CounterMetricFamily(f"edgeemo_{name}", f"{name.replace('_', ' ').capitalize()}.", value=value)
        steps = CounterMetricFamily("edgeemo_steps", "Answers.", labels=["model"])
        listening = CounterMetricFamily("edgeemo_listening", "Steps before a call had a label.", labels=["model"])
        decisions = CounterMetricFamily(
            "edgeemo_decisions", "Decisions: what calls were sure of, and low ones.", labels=["model"]
        )
        low = CounterMetricFamily("edgeemo_low_confidence", "Decisions below the least confidence.", labels=["model"])
        jumps = CounterMetricFamily("edgeemo_jumps", "Labels given up within half a second.", labels=["model"])
        errors = CounterMetricFamily("edgeemo_errors", "Answers that were no probabilities.", labels=["model"])
        late = CounterMetricFamily("edgeemo_late", "Answers later than the budget.", labels=["model"])
        labels = CounterMetricFamily("edgeemo_labels", "Answers by label.", labels=["model", "label"])
        handoffs = CounterMetricFamily("edgeemo_handoffs", "Calls handed to a person, by reason.", labels=["model", "reason"])
        batches = CounterMetricFamily("edgeemo_batches", "Batches by size.", labels=["model", "size"])
        latency = HistogramMetricFamily("edgeemo_latency_seconds", "From a hop's last sample to its answer.", labels=["model"])
        for version, c in engine.fleet.counters.items():
            steps.add_metric([version], c.steps)
            listening.add_metric([version], c.listening)
            decisions.add_metric([version], c.decisions)
            low.add_metric([version], c.low)
            jumps.add_metric([version], c.jumps)
            errors.add_metric([version], c.errors)
            late.add_metric([version], c.late)
            for name, count in zip(c.names, c.labels.tolist(), strict=True):
                labels.add_metric([version, name], count)
            for reason, count in zip(REASONS[1:], c.handoffs[1:].tolist(), strict=True):
                handoffs.add_metric([version, reason], count)
            for size, count in enumerate(c.batches.tolist()):
                if count:
                    batches.add_metric([version, str(size)], count)
            bounds = [*(str(b) for b in LATENCY_BUCKETS), "+Inf"]
            buckets = list(zip(bounds, c.latency.cumsum().tolist(), strict=True))
            latency.add_metric([version], buckets, sum_value=c.latency_sum)
        yield from (steps, listening, decisions, low, jumps, errors, late, labels, handoffs, batches, latency)


class MetricsServer:
    """GET /metrics over HTTP, answered by ``poll`` in at most POLL_S, whoever asks: nobody is waited for."""

    def __init__(self, engine: Engine, host: str, port: int, token: str = "") -> None:
        """``token``: what a client must bring as a bearer; empty: nothing. Raises EdgeEmoError where prometheus-client is not
        installed, or the address cannot be had."""
        try:
            import prometheus_client  # noqa: F401
        except ImportError as error:
            raise EdgeEmoError("metrics need prometheus-client: pip install 'edgeemo-runtime[ops]', or set port = 0") from error
        self._page = _Page(EngineCollector(engine))
        self._token = token.encode()
        self._clients: list[_Client] = []
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self._socket = socket.socket(family, kind | socket.SOCK_NONBLOCK)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
            self._socket.listen(MAX_CLIENTS)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise EdgeEmoError(f"metrics {host} port {port}: cannot be had ({reason}); choose another") from error

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def poll(self) -> None:
        """Accepts, reads, renders and writes what goes at once, and leaves the rest for the next time."""
        ends = time.perf_counter() + POLL_S
        while len(self._clients) < MAX_CLIENTS and time.perf_counter() < ends:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # nobody is there, or who was has gone
                break
            connection.setblocking(False)
            self._clients.append(_Client(connection))
        if not self._clients:
            return
        asking = [c for c in self._clients if c.wants_page(self._token)]
        page = self._page.render(ends) if asking else None
        for client in asking:
            if page is not None:
                client.answer = _response("200 OK", page)
        self._clients = [c for c in self._clients if not c.done()]

    def close(self) -> None:
        for client in self._clients:
            client.connection.close()
        self._socket.close()


class _Page:
    """The text of all metrics, made piece by piece within the time that there is, and good for a while."""

    def __init__(self, collector: EngineCollector) -> None:
        self._collector = collector
        self._families: Iterator[Any] | None = None
        self._parts: list[bytes] = []
        self._made = b""
        self._made_at = float("-inf")

    def render(self, ends: float) -> bytes | None:
        """The page; None while there was no time to make it whole."""
        from prometheus_client import generate_latest

        if time.monotonic() - self._made_at < PAGE_S:
            return self._made
        if self._families is None:
            self._families, self._parts = self._collector.collect(), []
        for family in self._families:
            self._parts.append(generate_latest(_Only(family)))
            if time.perf_counter() >= ends:
                return None
        self._families, self._made, self._made_at = None, b"".join(self._parts), time.monotonic()
        return self._made


class _Only:
    def __init__(self, family: Any) -> None:
        self._family = family

    def collect(self) -> list[Any]:
        return [self._family]


class _Client:
    """One connection: it has CLIENT_S to ask and to take its answer, in as many pieces as it likes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.answer: bytes | None = None
        self._asked = b""
        self._ends = time.monotonic() + CLIENT_S
        self._closed = False

    def wants_page(self, token: bytes) -> bool:
        """Reads what has come. True once it is a request for the metrics that is still to be answered."""
        if self.answer is not None or self._closed:
            return False
        try:
            data = self.connection.recv(MAX_REQUEST + 1 - len(self._asked))
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self._closed = True
            return False
        self._asked += data or b""
        if len(self._asked) > MAX_REQUEST:
            self.answer = _response("431 Request Header Fields Too Large", b"")
        elif b"\r\n\r\n" in self._asked or b"\n\n" in self._asked:
            self.answer = _refusal(self._asked, token)
            return self.answer is None
        return False

    def done(self) -> bool:
        """Writes what the client takes. True when nothing is left to do for it."""
        if self.answer is not None:
            try:
                self.answer = self.answer[self.connection.send(self.answer, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                pass
            except OSError:
                self._closed = True
        if self._closed or self.answer == b"" or time.monotonic() > self._ends:
            self.connection.close()
            return True
        return False


def _refusal(request: bytes, token: bytes) -> bytes | None:
    """Answer to a request that gets no metrics; None for one that does."""
    lines = request.replace(b"\r\n", b"\n").split(b"\n")
    words = lines[0].split(b" ")
    if len(words) != 3 or words[0] != b"GET":
        return _response("405 Method Not Allowed", b"")
    if words[1].split(b"?")[0] not in (b"/metrics", b"/"):
        return _response("404 Not Found", b"")
    if token:
        import hmac  # late, for single_core.without_openssl

        given = [line.partition(b":")[2].strip() for line in lines[1:] if line.lower().startswith(b"authorization:")]
        if not any(hmac.compare_digest(g, b"Bearer " + token) for g in given):
            return _response("401 Unauthorized", b"", "WWW-Authenticate: Bearer\r\n")
    return None


def _response(status: str, body: bytes, header: str = "") -> bytes:
    kind = "text/plain; version=0.0.4; charset=utf-8"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{header}Connection: close\r\n\r\n"
    return head.encode() + body
