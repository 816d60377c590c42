"""Prometheus metrics of an engine (the extra edgeemo-runtime[ops]), served without a thread: asked for between two steps."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from edgeemo_runtime.counters import LATENCY_BUCKETS
from edgeemo_runtime.decision import REASONS
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError

CLIENT_S = 0.005  # how long one who connected may take to ask: a step is not to wait for a slow client


class EngineCollector:
    """What an engine counts, in Prometheus's types, made when asked for."""

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
        jumps = CounterMetricFamily("edgeemo_jumps", "Labels given up within half a second.", labels=["model"])
        errors = CounterMetricFamily("edgeemo_errors", "Answers that were no probabilities.", labels=["model"])
        labels = CounterMetricFamily("edgeemo_labels", "Answers by label.", labels=["model", "label"])
        handoffs = CounterMetricFamily("edgeemo_handoffs", "Calls handed to a person, by reason.", labels=["model", "reason"])
        batches = CounterMetricFamily("edgeemo_batches", "Batches by size.", labels=["model", "size"])
        latency = HistogramMetricFamily("edgeemo_latency_seconds", "From a hop's last sample to its answer.", labels=["model"])
        for version, c in engine.fleet.counters.items():
            steps.add_metric([version], c.steps)
            jumps.add_metric([version], c.jumps)
            errors.add_metric([version], c.errors)
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
        yield from (steps, jumps, errors, labels, handoffs, batches, latency)


class _Quiet(WSGIRequestHandler):
    timeout = CLIENT_S

    def log_message(self, format: str, *args: Any) -> None:
        return


class _Server(WSGIServer):
    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(CLIENT_S)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was too slow or went away is its own loss."""


class MetricsServer:
    """GET /metrics on a port, answered by ``poll``."""

    def __init__(self, engine: Engine, port: int) -> None:
        """Raises EdgeEmoError where prometheus-client is not installed, or the port cannot be had."""
        try:
            from prometheus_client import CollectorRegistry, make_wsgi_app
        except ImportError as error:
            raise EdgeEmoError("metrics need prometheus-client: pip install 'edgeemo-runtime[ops]', or set port = 0") from error
        registry = CollectorRegistry()
        registry.register(EngineCollector(engine))
        try:
            self._server = make_server("", port, make_wsgi_app(registry), _Server, _Quiet)
        except OSError as error:
            raise EdgeEmoError(f"metrics port {port}: cannot be had ({error.strerror}); choose another") from error
        self._server.timeout = 0

    @property
    def port(self) -> int:
        return self._server.server_port

    def poll(self) -> None:
        self._server.handle_request()

    def close(self) -> None:
        self._server.server_close()
