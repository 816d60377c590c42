"""Capacity without a board: the scheduler in simulated time over known costs of a batch."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from edgeemo_runtime.counters import BUDGET_S
from edgeemo_runtime.model import MAX_BATCH
from edgeemo_runtime.schedule import PHASES as PARTS
from edgeemo_runtime.schedule import Scheduler, quietest_lead

HOP_S = 0.16
SEEDS = 5  # of the streams' random phases; the worst counts
DEADLINE_S = HOP_S + BUDGET_S


@dataclass(frozen=True)
class Plan:
    """Plan for ``streams`` calls: percentiles of a hop's first sample to its answer, and the core's share of time in steps."""

    streams: int
    utilisation: float
    mean_batch: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @property
    def fits(self) -> bool:
        return self.p99_ms <= DEADLINE_S * 1000


def simulate(
    cost_s: np.ndarray, streams: int, seconds: float, seed: int, spread: bool = False
) -> tuple[np.ndarray, float, float]:
    """(latencies from hop complete to answer, utilisation, mean batch) of ``streams`` calls with random phases.

    ``cost_s`` (17,): seconds of a batch by its size. ``spread``: calls are led in with silence to even out their phases.
    """
    scheduler = Scheduler(cost_s)
    phases = np.random.default_rng(seed).uniform(0, HOP_S, streams)
    counts = np.zeros(PARTS, dtype=np.int64)
    for i in range(streams if spread else 0):
        phases[i] = (phases[i] - quietest_lead(counts, phases[i] / HOP_S) * HOP_S / PARTS) % HOP_S
        counts[int(phases[i] / HOP_S * PARTS) % PARTS] += 1
    coming = [(float(p), i) for i, p in enumerate(phases)]
    heapq.heapify(coming)
    waiting: list[float] = []  # since when, longest first: streams become ready in this order
    now = busy = 0.0
    latencies: list[float] = []
    batches = 0
    while now < seconds:
        first = np.array(waiting[:MAX_BATCH])  # the scheduler asks for no more
        start = max(now, scheduler.start_at(first))
        if coming and coming[0][0] <= start:
            ready, stream = heapq.heappop(coming)
            now = max(now, ready)
            waiting.append(ready)
            heapq.heappush(coming, (ready + HOP_S, stream))
            continue
        size = scheduler.size(first, start)
        now = start + float(cost_s[size])
        busy += float(cost_s[size])
        latencies += [now - since for since in waiting[:size]]
        waiting = waiting[size:]
        batches += 1
    return np.array(latencies), busy / now, len(latencies) / batches


def plan(cost_s: np.ndarray, streams: int, seconds: float = 20.0, spread: bool = False) -> Plan:
    runs = [simulate(cost_s, streams, seconds, seed, spread) for seed in range(SEEDS)]
    latency = 1000 * (HOP_S + np.concatenate([r[0] for r in runs]))
    p50, p95, p99 = (float(np.percentile(latency, p)) for p in (50, 95, 99))
    # The worst phases decide whether so many calls fit.
    p99 = max(_p99_ms(r[0]) for r in runs)
    busy, batch = (float(np.mean([r[i] for r in runs])) for i in (1, 2))
    return Plan(streams, busy, batch, p50, p95, p99, float(latency.max()))


def _p99_ms(latencies: np.ndarray) -> float:
    return float(np.percentile(1000 * (HOP_S + latencies), 99))


def _fits(cost_s: np.ndarray, streams: int, seconds: float, spread: bool) -> bool:
    """Whether such a plan ``fits``; the first set of phases that does not ends it."""
    return all(_p99_ms(simulate(cost_s, streams, seconds, seed, spread)[0]) <= DEADLINE_S * 1000 for seed in range(SEEDS))


def most_streams(cost_s: np.ndarray, seconds: float = 10.0, spread: bool = False) -> int:
    """The largest number of streams whose plan fits: 99 % of the answers within 180 ms, hop included, in each of five sets of
    phases."""
    low, high = 0, 2
    while _fits(cost_s, high, seconds, spread):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(cost_s, middle, seconds, spread) else (low, middle)
    return low
