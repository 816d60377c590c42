"""Packets of live calls through the front's receiving code, from the event loop to the ring, between two marker system calls
(board_step.py says what those are).

    python front_step.py {audiosocket|rtp} CALLS ROUNDS WARM_UP

In every round each call has one packet of 20 ms in its socket before the loop runs: who sends it is outside the markers, and so
is the kernel. Runs on the (emulated) board, where nothing of edgeemo is but the runtime.
"""

import asyncio
import ctypes
import os
import socket
import struct
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from edgeemo_runtime.serve.audiosocket import AudioSocketConnection
from edgeemo_runtime.serve.calls import Calls
from edgeemo_runtime.serve.channel import Channel, Step
from edgeemo_runtime.serve.context import Service
from edgeemo_runtime.serve.doorman import Doorman
from edgeemo_runtime.serve.formats import Format
from edgeemo_runtime.serve.rings import AudioWriter, SlotWriter, make_region
from edgeemo_runtime.serve.rtp import RtpPort
from edgeemo_runtime.serve.settings import Settings

MARK = 0x7A72
SAMPLES = 160  # 20 ms at 8 kHz
HOST = "127.0.0.1"


class _Rings:
    """The pool's side of a call without engines: only its ring."""

    labels = ("neutral",)

    def __init__(self, calls: int) -> None:
        self.capacity = self.headroom = calls
        self._memory = AudioWriter(make_region(calls), calls)

    def open(self, form: Format, user: str, step: Callable[[Step], None], closed: Callable[[str, int], None]) -> Channel:
        self.headroom -= 1
        return Channel(self.headroom, 1, SlotWriter(self._memory, self.headroom, form), user, step, closed)


class Front:
    """A front's listeners with calls in them. ``send`` gives each a packet, ``take`` runs the loop until all are heard."""

    def __init__(self, protocol: str, calls: int) -> None:
        self.protocol, self.bytes = protocol, 0
        settings = Settings()
        self.calls = Calls(cast(Any, _Rings(calls)), settings)
        self._service = cast(Service, SimpleNamespace(settings=settings, calls=self.calls, doorman=Doorman(settings.limits)))
        self._listening = socket.create_server((HOST, 0))
        self._sockets: list[socket.socket] = []
        self._count = 0

    async def open(self, calls: int) -> None:
        self._sockets += [await getattr(self, f"_{self.protocol}")(number) for number in range(calls)]

    async def _audiosocket(self, number: int) -> socket.socket:
        theirs = socket.create_connection(self._listening.getsockname())
        ours, _ = self._listening.accept()
        ours.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: AudioSocketConnection(self._service), ours)
        theirs.sendall(struct.pack("!BH16s", 1, 16, number.to_bytes(16, "big")))
        return theirs

    async def _rtp(self, number: int) -> socket.socket:
        port = RtpPort(self._service, number)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: port, (HOST, 0))
        theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        theirs.connect(transport.get_extra_info("sockname"))
        return theirs

    def send(self) -> None:
        self._count += 1
        for number, one in enumerate(self._sockets):
            if self.protocol == "rtp":
                one.send(struct.pack("!BBHII", 0x80, 0, self._count, SAMPLES * self._count, number) + bytes(SAMPLES))
            else:
                one.send(struct.pack("!BH", 0x10, 2 * SAMPLES) + bytes(2 * SAMPLES))
            self.bytes += SAMPLES * (1 if self.protocol == "rtp" else 2)

    async def take(self) -> None:
        while self.calls.bytes[self.protocol] < self.bytes:
            await asyncio.sleep(0)


async def run(protocol: str, calls: int, rounds: int, warm_up: int) -> None:
    front, mark = Front(protocol, calls), ctypes.CDLL(None).syscall
    await front.open(calls)
    for number in range(warm_up + rounds):
        front.send()
        if number >= warm_up:
            mark(MARK, 1, 0)
        await front.take()
        mark(MARK, 2, 0)
    assert len(front.calls.running) == calls


def main() -> None:
    asyncio.run(run(sys.argv[1], *map(int, sys.argv[2:5])))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
