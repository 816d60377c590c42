"""The front's cost: what is measured is calls that are taken and packets that reach their rings."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from edgeemo.bench import front
from edgeemo.bench.front_step import SAMPLES, WIDTHS, front_of


@pytest.mark.parametrize(("protocol", "width"), WIDTHS.items())
def test_every_packet_reaches_its_ring(protocol: str, width: int) -> None:
    async def heard() -> list[int]:
        measured = front_of(protocol, 3)
        await measured.open(3)
        for _ in range(5):
            measured.send()
            await measured.take()
        return [call.legs["caller"].channel.writer.position for call in measured.calls.running.values()]  # type: ignore[union-attr]

    assert asyncio.run(asyncio.wait_for(heard(), 10)) == 3 * [5 * SAMPLES * width]


def test_every_answer_reaches_its_call() -> None:
    async def heard() -> list[tuple[int, float]]:
        measured = front_of("answers", 20)  # a batch, and part of one
        await measured.open(20)
        for _ in range(3):
            measured.send()
            await measured.take()
        records = [call.legs["caller"].record for call in measured.calls.running.values()]
        return [(record.steps, record.seconds) for record in records]

    assert asyncio.run(asyncio.wait_for(heard(), 10)) == 20 * [(3, pytest.approx(0.48))]


def test_changes_end_a_segment_and_begin_another() -> None:
    async def told() -> dict[str, int]:
        found = {}
        for protocol in ("answers", "changes"):
            measured = front_of(protocol, 2)
            await measured.open(2)
            for _ in range(4):
                measured.send()
                await measured.take()
            found[protocol] = measured.calls.told
        return found

    # Each call's begin and first segment; then, where labels change, an end and a beginning for each of three steps.
    assert asyncio.run(asyncio.wait_for(told(), 10)) == {"answers": 2 * 2, "changes": 2 * (2 + 3 * 2)}


@pytest.mark.parametrize("protocol", ["rtp", "websocket", "answers", "changes"])
def test_it_runs_as_a_board_runs_it(protocol: str) -> None:
    command = [sys.executable, str(front.SCRIPT), protocol, "2", "3", "1"]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0


def test_calls_on_a_core() -> None:
    assert front.most_calls({1: 115_276.0, 64: 50_000.0}, 1500) == 600
