"""Counters as Prometheus metrics and as JSON: the front's own, and each engine's with its number."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.ops.supervisor import resident_mb

if TYPE_CHECKING:
    from edgeemo_runtime.serve.context import Service

PAGE_S = 0.5  # that a page is good for


class Figures:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._began = time.monotonic()
        self._made, self._made_at = b"", float("-inf")

    async def page(self) -> bytes:
        """Prometheus's text format. Raises EdgeEmoError where prometheus-client is missing."""
        if time.monotonic() - self._made_at < PAGE_S:
            return self._made
        try:
            from prometheus_client import generate_latest
        except ImportError as error:
            raise EdgeEmoError("metrics need prometheus-client: pip install 'edgeemo-runtime[serve]'") from error
        families = [*self._own(), *_merged(await self._service.pool.families())]
        self._made = b"".join(generate_latest(_Only(family)) for family in families)
        self._made_at = time.monotonic()
        return self._made

    def _own(self) -> list[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        service = self._service
        calls, pool = service.calls, service.pool
        running = GaugeMetricFamily("edgeemo_serve_calls", "Calls that run, by protocol.", labels=["protocol"])
        by_protocol = dict.fromkeys(calls.opened, 0)
        for call in calls.running.values():
            by_protocol[call.protocol] = by_protocol.get(call.protocol, 0) + 1
        for name, count in by_protocol.items():
            running.add_metric([name], count)
        families: list[Any] = [running]
        for name, text, counts in (
            ("calls_opened", "Calls taken, by protocol.", calls.opened),
            ("audio_bytes", "Bytes of audio, by protocol.", calls.bytes),
            ("bad_messages", "Messages that made no sense, by protocol.", calls.bad),
        ):
            family = CounterMetricFamily(f"edgeemo_serve_{name}", text, labels=["protocol"])
            for protocol, count in counts.items():
                family.add_metric([protocol], count)
            families.append(family)
        refused = CounterMetricFamily("edgeemo_serve_refused", "Calls not taken, by why.", labels=["protocol", "reason"])
        for (protocol, reason), count in calls.refused.items():
            refused.add_metric([protocol, reason], count)
        turned = CounterMetricFamily("edgeemo_serve_turned_away", "Connections beyond an address's limits.", labels=["reason"])
        for reason, count in service.doorman.turned_away.items():
            turned.add_metric([reason], count)
        left = CounterMetricFamily("edgeemo_serve_events_left_out", "Events that somebody was too slow for.", labels=["sink"])
        for sink, count in calls.left_out.items():
            left.add_metric([sink], count)
        families += [refused, turned, left]
        for name, text, value in (
            ("channels", "Channels in use.", len(pool.channels)),
            ("capacity", "Channels that may be in use.", pool.capacity),
            ("engines_ready", "Engine processes that answer.", sum(e.ready for e in pool.engines)),
        ):
            families.append(GaugeMetricFamily(f"edgeemo_serve_{name}", text, value=value))
        for name, text, value in (
            ("engine_restarts", "Engine processes started anew.", pool.restarts),
            ("moved_channels", "Channels that went to another engine by replay.", pool.moved),
        ):
            families.append(CounterMetricFamily(f"edgeemo_serve_{name}", text, value=value))
        return families

    def status(self) -> dict[str, Any]:
        service = self._service
        pool, calls = service.pool, service.calls
        engines = [
            {
                "engine": e.index,
                "pid": e.pid,
                "ready": e.ready,
                "capacity": e.capacity,
                "channels": e.channels,
                "model": e.version,
            }
            | {k: v for k, v in e.beat.items() if k != "said"}
            for e in pool.engines
        ]
        return {
            "uptime_s": round(time.monotonic() - self._began, 1), "state": service.readiness or "ready",
            "calls": len(calls.running),
            "channels": len(pool.channels), "capacity": pool.capacity, "labels": pool.labels, "engines": engines,
            "restarts": pool.restarts, "moved": pool.moved,
            "resumed_s": sorted(round(s, 3) for s in pool.resumed_s)[-1:],
            "front": {
                "pid": os.getpid(), "resident_mb": round(resident_mb(), 1), "cpu_s": time.process_time(),
                "open_files": _open_files(),
            },
            "opened": dict(calls.opened), "bad_messages": dict(calls.bad), "left_out": dict(calls.left_out),
            "refused": {f"{p}: {r}": n for (p, r), n in calls.refused.items()},
        }  # fmt: skip


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _merged(engines: list[tuple[int, list[dict[str, Any]]]]) -> list[Any]:
    """Each engine's families as one, its samples labelled with its number."""
    from prometheus_client.core import Metric

    made: dict[str, Any] = {}
    for index, families in engines:
        for family in families:
            metric = made.get(family["name"])
            if metric is None:
                metric = made[family["name"]] = Metric(family["name"], family["help"], family["type"])
            for name, labels, value in family["samples"]:
                metric.add_sample(name, {**labels, "engine": str(index)}, value)
    return list(made.values())


class _Only:
    def __init__(self, family: Any) -> None:
        self._family = family

    def collect(self) -> list[Any]:
        return [self._family]
