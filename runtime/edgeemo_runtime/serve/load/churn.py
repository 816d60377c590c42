"""Connections that open and close at random: what of them a service keeps is a leak."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.load.clients import CLIENTS, PACKET_S, Client
from edgeemo_runtime.serve.load.run import make_packets, status

MAX_S = 2.0  # that one of them talks
SHORT = 0.2  # share that says nothing at all
ABRUPT = 0.3  # share that is gone without a word
SETTLED_S = 30.0  # that the service may take to forget the last of them


async def _one(client: Client, packets: list[bytes], rng: np.random.Generator) -> str:
    """A connection from its begin to its end: ``served``, ``refused`` or ``failed``."""
    client.told = lambda event: None
    try:
        await client.open()
        count = 0 if rng.random() < SHORT else int(rng.uniform(1, MAX_S / PACKET_S))
        due = time.monotonic()
        for number, packet in enumerate(packets[:count]):
            await client.send(number, packet)
            due += PACKET_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        refused = client.ended
        await (client.drop() if rng.random() < ABRUPT else client.close())
    except EdgeEmoError:
        await client.drop()
        return "refused"
    except (OSError, TimeoutError):
        await client.drop()
        return "failed"
    return "refused" if refused else "served"


async def _settled(http: str, headers: dict[str, str]) -> dict[str, Any]:
    """The service's status once it has no calls, or SETTLED_S after the last was ended."""
    until = time.monotonic() + SETTLED_S
    while (now := await status(http, headers))["calls"] and time.monotonic() < until:
        await asyncio.sleep(0.2)
    return now


async def run_churn(
    protocol: str, address: str, http: str, count: int, at_once: int, paths: list[Path], seed: int, token: str
) -> dict[str, Any]:
    """``count`` connections, up to ``at_once`` at a time. Raises EdgeEmoError where there is no service."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    kind, rng = CLIENTS[protocol], np.random.default_rng(seed)
    packets = make_packets(paths, at_once, MAX_S, kind.encoding, seed)
    before, began = await status(http, headers), time.monotonic()
    waiting = iter(range(count))
    outcome = {"served": 0, "refused": 0, "failed": 0}
    halfway: list[dict[str, Any]] = []

    async def worker(place: int) -> None:
        for number in waiting:
            outcome[await _one(kind(address, number, http, headers), packets[place], rng)] += 1
            if number == count // 2:
                halfway.append(await status(http, headers))

    await asyncio.gather(*(worker(i) for i in range(at_once)))
    after = await _settled(http, headers)
    seen = (before, *halfway, after)
    return {
        "protocol": protocol, "connections": count, "at_once": at_once, **outcome,
        "seconds": round(time.monotonic() - began, 1), "calls_left": after["calls"],
        "open_files": [s["front"]["open_files"] for s in seen],
        "resident_mb": {
            "front": [s["front"]["resident_mb"] for s in seen],
            "engines": [[e.get("resident_mb", 0) for e in s["engines"]] for s in seen],
        },
        "restarts": after["restarts"] - before["restarts"],
    }  # fmt: skip
