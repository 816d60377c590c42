"""Audio that is fed to a call faster than it is read: in order, by leg, and nothing lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, cast
from unittest import mock

from edgeemo_runtime.serve import calls
from edgeemo_runtime.serve.calls import Call, Calls
from edgeemo_runtime.serve.channel import Channel, Step
from edgeemo_runtime.serve.formats import Format
from edgeemo_runtime.serve.rings import AudioReader, AudioWriter, SlotReader, SlotWriter, make_region
from edgeemo_runtime.serve.settings import Settings
from hypothesis import given
from hypothesis import strategies as st

FORM = Format("mulaw", 8000)  # a ring of 64,000 bytes
LEGS = ("caller", "agent")


class _Rings:
    """A pool without engines: a ring for each leg, and its reader."""

    labels = ("angry", "neutral")

    def __init__(self) -> None:
        handle = make_region(len(LEGS))
        self._memory, self._reader = AudioWriter(handle, len(LEGS)), AudioReader(handle, len(LEGS))
        os.close(handle)
        self.headroom, self.readers = len(LEGS), list[SlotReader]()

    def open(self, form: Format, user: str, step: Callable[[Step], None], closed: Callable[[str, int], None]) -> Channel:
        slot = len(self.readers)
        self.readers.append(SlotReader(self._reader, slot, form))
        return Channel(slot, 1, SlotWriter(self._memory, slot, form), user, step, closed)


async def _connection(call: Call, leg: str, messages: list[bytes]) -> None:
    """Feeds each message in two parts and waits until they are written, as a WebSocket session does."""
    for data in messages:
        call.feed(leg, data[: len(data) // 3])
        call.feed(leg, data[len(data) // 3 :])
        await call.drain(leg)
        assert not call.legs[leg].waiting


async def _engine(readers: list[SlotReader], piece: int, got: list[bytearray]) -> None:
    while True:
        for reader, found in zip(readers, got, strict=True):
            found += reader.take(min(reader.available(), piece))[0]
        await asyncio.sleep(0)


@given(
    sizes=st.lists(
        st.tuples(st.sampled_from(LEGS), st.sampled_from((160, 1000, 15_000, 40_000, 90_000))), min_size=1, max_size=12
    ),
    piece=st.sampled_from((1000, 8000, 64_000)),
)
def test_connections_of_a_call_keep_their_order(sizes: list[tuple[str, int]], piece: int) -> None:
    messages = {leg: [os.urandom(size) for of, size in sizes if of == leg] for leg in LEGS}
    got = [bytearray() for _ in LEGS]

    async def run() -> None:
        rings = _Rings()
        call = Calls(cast(Any, rings), Settings()).open("c", "test", "?", LEGS, FORM)
        engine = asyncio.ensure_future(_engine(rings.readers, piece, got))
        await asyncio.wait_for(asyncio.gather(*(_connection(call, leg, messages[leg]) for leg in LEGS)), 60)
        while any(reader.available() for reader in rings.readers):
            await asyncio.sleep(0)
        engine.cancel()
        assert not any(reader.lost for reader in rings.readers)

    with mock.patch.object(calls, "FULL_POLL_S", 0.0):
        asyncio.run(run())
    assert [bytes(g) for g in got] == [b"".join(messages[leg]) for leg in LEGS]


def test_a_leg_that_has_ended_is_not_waited_for() -> None:
    async def run() -> None:
        call = Calls(cast(Any, _Rings()), Settings()).open("c", "test", "?", LEGS, FORM)
        call.feed("caller", bytes(200_000))
        assert call.legs["caller"].waiting
        call.legs["caller"].ending = True
        await asyncio.wait_for(call.drain("caller"), 10)

    asyncio.run(run())
