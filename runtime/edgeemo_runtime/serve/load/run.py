"""The calls of a load test: sent in real time, answers matched with the packets they wait for."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from edgeemo_runtime.audio import load_audio
from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.ops.loadtest import noise_calls
from edgeemo_runtime.serve.load.clients import CLIENTS, PACKET_S, RATE, SAMPLES, Client, mulaw_bytes

SETTLE_S = 1.0  # after the last packet, before calls are ended
TAIL_S = 5.0  # that the last answers may take
ANSWER_S = 10.0  # that the service may take to say how it is
EPSILON_S = 1e-6
AGAIN_S = 0.1  # from one try to connect to the next


@dataclass(frozen=True)
class Network:
    """Faults of the network: a share of the packets lost, a share that changes places with the next, and delays up to
    ``jitter_ms``. Over connections that keep order, only delays."""

    loss: float = 0.0
    reorder: float = 0.0
    jitter_ms: float = 0.0


@dataclass
class LoadCall:
    client: Client
    packets: list[bytes]
    begins: float = 0.0
    sent: dict[int, float] = field(default_factory=dict)  # by packet, when
    answers: list[tuple[float, float]] = field(default_factory=list)  # end_s, when it was heard of
    summary: dict[str, Any] | None = None
    began_at_s: float | None = 0.0  # of its audio, where its connection begins; None: at the next packet
    begun: bool = False
    away_s: list[float] = field(default_factory=list)  # each time that it had no connection

    def told(self, event: dict[str, Any]) -> None:
        if event.get("type") == "step":
            self.answers.append((event["end_s"] + (self.began_at_s or 0.0), time.monotonic()))
        elif event.get("type") == "begin":
            self.begun = True
        elif event.get("type") == "end":
            self.summary = event

    async def send(self, number: int) -> None:
        """A packet, where there is a connection."""
        if self.client.ended or not self.client.opened:
            return
        if self.began_at_s is None:
            self.began_at_s = number * PACKET_S
        self.sent[number] = time.monotonic()
        await self.client.send(number, self.packets[number])

    async def stay_connected(self) -> None:
        """Connects again whenever its connection has ended, as often as it takes."""
        while True:
            await asyncio.sleep(AGAIN_S)
            if not self.client.ended or self.summary:
                continue
            gone = time.monotonic()
            while not await self._taken():
                await asyncio.sleep(AGAIN_S)
            self.away_s.append(time.monotonic() - gone)

    async def _taken(self) -> bool:
        """Whether the service took it when it connected: one that is not ready yet ends the connection at once."""
        await self.client.drop()
        self.began_at_s, self.begun, self.client.ended = None, False, False
        try:
            await self.client.open()
        except EdgeEmoError:
            self.client.ended = True
            return False
        until = time.monotonic() + TAIL_S
        while not (self.begun or self.client.ended) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return not self.client.ended

    def latencies(self) -> list[float]:
        """Seconds from the packet with a hop's last sample to its answer. A packet that was lost is taken for sent when the next
        one was."""
        found = []
        for end_s, heard in self.answers:
            number = math.ceil(end_s / PACKET_S - EPSILON_S) - 1
            later = [self.sent[n] for n in range(max(0, number), number + 20) if n in self.sent]
            if later:
                found.append(heard - later[0])
        return found

    def lost(self, hop_s: float) -> int:
        """Whole hops within the call that were not answered."""
        ends = sorted(e for e, _ in self.answers)
        if not ends:
            return int(len(self.packets) * PACKET_S / hop_s)
        whole = len(self.packets) * PACKET_S
        missing = sum(max(0, round((b - a) / hop_s) - 1) for a, b in itertools.pairwise(ends))
        missing += max(0, math.ceil((ends[0] - EPSILON_S) / hop_s) - 1)
        return missing + max(0, int((whole - ends[-1] + EPSILON_S) / hop_s))


def send_times(count: int, network: Network, ordered: bool, rng: np.random.Generator) -> list[tuple[float, int]]:
    """When each packet that is not lost leaves, in seconds after its call's begin."""
    times = np.arange(1, count + 1) * PACKET_S + rng.uniform(0, network.jitter_ms / 1000, count)
    if ordered:
        times = np.maximum.accumulate(times)
        return [(float(t), i) for i, t in enumerate(times)]
    for i in np.flatnonzero(rng.random(count - 1) < network.reorder):
        times[i], times[i + 1] = times[i + 1], times[i]
    kept = np.flatnonzero(rng.random(count) >= network.loss)
    return sorted((float(times[i]), int(i)) for i in kept)


def make_packets(paths: list[Path], calls: int, seconds: float, encoding: str, seed: int) -> list[list[bytes]]:
    """Audio of ``calls`` calls in packets of 20 ms: of files, over and over, or babble-like noise."""
    count = int(seconds / PACKET_S)
    if paths:
        sounds = [load_audio(path, RATE) for path in paths]
        audio = [np.resize(sounds[i % len(sounds)], count * SAMPLES) for i in range(calls)]
    else:
        audio = [np.asarray(c.audio) for c in noise_calls(calls, seconds, RATE, 0.16, seed)]
    made = []
    for samples in audio:
        pcm = (samples[: count * SAMPLES] * 32767).astype("<i2")
        data = mulaw_bytes(pcm) if encoding == "mulaw" else pcm.tobytes()
        size = len(data) // count
        made.append([data[i * size : (i + 1) * size] for i in range(count)])
    return made


async def _paced(calls: list[LoadCall], network: Network, rng: np.random.Generator) -> float:
    """Sends everything when it is due; how late the worst packet left, in seconds."""
    heap: list[tuple[float, int, int]] = []
    plans = [send_times(len(c.packets), network, c.client.ordered, rng) for c in calls]
    for index, plan in enumerate(plans):
        if plan:
            heapq.heappush(heap, (calls[index].begins + plan[0][0], index, 0))
    worst = 0.0
    while heap:
        now = time.monotonic()
        if heap[0][0] > now:
            await asyncio.sleep(heap[0][0] - now)
            continue
        due, index, step = heapq.heappop(heap)
        call, number = calls[index], plans[index][step][1]
        worst = max(worst, now - due)
        await call.send(number)
        if step + 1 < len(plans[index]):
            heapq.heappush(heap, (call.begins + plans[index][step + 1][0], index, step + 1))
        await asyncio.sleep(0)
    return worst


async def _follow(http: str, headers: dict[str, str], by_call: dict[str, LoadCall], ready: asyncio.Event) -> None:
    """Events of every call, for protocols without a way back."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.get(f"{http}/v1/events?steps=1") as answer,
    ):
        ready.set()
        async for line in answer.content:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if (call := by_call.get(event["call"])) is not None:
                    call.told(event)


async def _follow_on(http: str, headers: dict[str, str], by_call: dict[str, LoadCall], ready: asyncio.Event) -> None:
    """As _follow, again whenever the service is gone."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await _follow(http, headers, by_call, ready)
        await asyncio.sleep(AGAIN_S)


async def status(http: str, headers: dict[str, str]) -> dict[str, Any]:
    """Raises EdgeEmoError if there is no service."""
    patience = aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=patience) as session,
            session.get(f"{http}/v1/status") as answer,
        ):
            if answer.status != 200:
                raise EdgeEmoError(f"{http}: answers {answer.status}; --token FILE brings a token")
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EdgeEmoError(f"{http}: no edgeemo-serve answers there ({first_line(error)})") from error


async def run_load(
    protocol: str,
    address: str,
    http: str,
    calls: int,
    seconds: float,
    paths: list[Path],
    network: Network,
    seed: int,
    token: str,
    reconnect: bool = False,
) -> dict[str, Any]:
    """``reconnect``: calls whose connection ends are opened again, with the same id, and go on where they are.

    Raises EdgeEmoError where there is no service, or a call cannot be opened.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    kind = CLIENTS[protocol]
    rng = np.random.default_rng(seed)
    before = await status(http, headers)
    packets = make_packets(paths, calls, seconds, kind.encoding, seed)
    made = [LoadCall(kind(address, i, http, headers), p) for i, p in enumerate(packets)]
    by_call = {c.client.call: c for c in made}
    for call in made:
        call.client.told = call.told
    follower = None
    middle: asyncio.Task | None = None
    try:
        if not kind.own_results:
            ready = asyncio.Event()
            follow = _follow_on if reconnect else _follow
            follower = asyncio.ensure_future(follow(http, headers, by_call, ready))
            await asyncio.wait([asyncio.ensure_future(ready.wait()), follower], return_when=asyncio.FIRST_COMPLETED)
        opened = await asyncio.gather(*(c.client.open() for c in made), return_exceptions=True)
        if wrong := [o for o in opened if isinstance(o, BaseException)]:
            raise wrong[0]
        begins = time.monotonic() + 0.2
        for call, phase in zip(made, rng.uniform(0, 0.16, calls), strict=True):
            call.begins = begins + float(phase)
        middle = asyncio.ensure_future(_status_after(http, headers, min(15.0, seconds / 2)))
        began = time.monotonic()
        keepers = [asyncio.ensure_future(c.stay_connected()) for c in made if reconnect]
        worst = await _paced(made, network, rng)
        await _stop(*keepers)
        await asyncio.sleep(SETTLE_S)
        after, took = await status(http, headers), time.monotonic() - began
        early = await middle
    except BaseException:
        await asyncio.gather(*(c.client.close() for c in made), *([middle] if middle else ()), return_exceptions=True)
        await _stop(follower)
        raise
    await asyncio.gather(*(c.client.close() for c in made), return_exceptions=True)
    ends = time.monotonic() + TAIL_S
    while follower is not None and time.monotonic() < ends and not all(c.summary for c in made):
        await asyncio.sleep(0.05)
    await _stop(follower)
    return _report(protocol, made, seconds, before, early, after, took, worst, network)


async def _stop(*tasks: asyncio.Task | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def _status_after(http: str, headers: dict[str, str], seconds: float) -> dict[str, Any]:
    await asyncio.sleep(seconds)
    return await status(http, headers)


def _report(
    protocol: str,
    calls: list[LoadCall],
    seconds: float,
    before: dict[str, Any],
    middle: dict[str, Any],
    after: dict[str, Any],
    took: float,
    worst: float,
    network: Network,
) -> dict[str, Any]:
    latencies = 1000 * np.array([s for call in calls for s in call.latencies()] or [0.0])
    front = after["front"]["cpu_s"] - before["front"]["cpu_s"]
    engines = [
        b["cpu_s"] - a["cpu_s"] for a, b in zip(before["engines"], after["engines"], strict=True) if "cpu_s" in a and "cpu_s" in b
    ]
    late = sum(e.get("late", 0) for e in after["engines"]) - sum(e.get("late", 0) for e in before["engines"])
    return {
        "protocol": protocol,
        "calls": len(calls),
        "seconds": seconds,
        "network": {"loss": network.loss, "reorder": network.reorder, "jitter_ms": network.jitter_ms},
        "packets": sum(len(c.sent) for c in calls),
        "answers": sum(len(c.answers) for c in calls),
        "lost_answers": sum(c.lost(0.16) for c in calls),
        "ended_by_server": sum(c.client.ended and c.summary is None for c in calls),
        "latency_ms": {p: round(float(np.percentile(latencies, float(p[1:]))), 1) for p in ("p50", "p95", "p99", "p99.9")}
        | {"max": round(float(latencies.max()), 1)},
        "late_in_engine": late,
        "sender_worst_ms": round(1000 * worst, 1),
        "cpu": {"front": round(front / took, 3), "engines": [round(e / took, 3) for e in engines]},
        "resident_mb": {
            "front": [s["front"]["resident_mb"] for s in (before, middle, after)],
            "engines": [[e.get("resident_mb", 0) for e in s["engines"]] for s in (before, middle, after)],
        },
        "restarts": after["restarts"] - before["restarts"],
        "reconnects": sum(len(c.away_s) for c in calls),
        "max_away_s": round(max((s for c in calls for s in c.away_s), default=0.0), 2),
    }
