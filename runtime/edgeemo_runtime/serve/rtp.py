"""RTP over UDP (RFC 3550, payloads of RFC 3551): one port, one call.

A port belongs to the first source that is heard on it (address, port and SSRC) until its call ends; packets of others are counted
and dropped. Packets are put in order within ``reorder_ms``; what is missing after that is silence, by the timestamps.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.calls import Call, RefusedError
from edgeemo_runtime.serve.formats import Format
from edgeemo_runtime.serve.reorder import Reorder
from edgeemo_runtime.serve.settings import parse_address

if TYPE_CHECKING:
    from edgeemo_runtime.serve.context import Service

PROTOCOL = "rtp"
HEADER = 12
MOST_PAYLOAD = 16_384  # bytes; more than any network's packet
COMFORT_NOISE = (13, 19)  # RFC 3389, and the number it had before: a pause
RESERVED_S = 60.0  # that an announced call has to come
MAX_GAP_S = 60.0  # a larger jump of timestamps is another source
QUIET_S = 0.1  # after which another SSRC of the same address is the call's source
RECEIVE_BYTES = 1 << 20  # of the kernel's queue for a port
_HEAD = struct.Struct("!BBHII")


class Packet(NamedTuple):
    """``timestamp``: of its first sample, in samples, modulo 2^32."""

    payload_type: int
    number: int
    timestamp: int
    ssrc: int
    payload: bytes


def parse_packet(data: bytes) -> Packet | None:
    """A packet of RTP version 2; None for anything else. Extensions, contributing sources and padding are left out."""
    if len(data) < HEADER:
        return None
    first, second, number, timestamp, ssrc = _HEAD.unpack_from(data)
    if first >> 6 != 2:
        return None
    at, end = HEADER + 4 * (first & 15), len(data)
    if first & 0x10:
        if len(data) < at + 4:
            return None
        at += 4 + 4 * int.from_bytes(data[at + 2 : at + 4], "big")
    if first & 0x20:
        if not data[-1]:
            return None
        end -= data[-1]
    if at > end:
        return None
    return Packet(second & 0x7F, number, timestamp, ssrc, data[at:end])


class MediaClock:
    """Timestamps of 32 bits to a call's own count of samples, which begins at 0 and never goes back."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._expected = 0
        self._heard: float | None = None
        self.count = 0  # of what comes next

    def place(self, timestamp: int, samples: int, now: float) -> int | None:
        """For a packet of ``samples`` that came ``now``: its count where it does not follow on what was before, else None."""
        jumped: int | None = None
        if self._heard is None:
            jumped = 0
        else:
            ahead = (timestamp - self._expected + (1 << 31)) % (1 << 32) - (1 << 31)
            if 0 < ahead <= MAX_GAP_S * self._rate:
                jumped = self.count = self.count + ahead
            elif ahead:  # a source that counts anew: by the time that has passed
                silent = round((now - self._heard) * self._rate) - samples
                if silent > samples:
                    jumped = self.count = self.count + min(silent, int(MAX_GAP_S * self._rate))
        self._heard = now
        self._expected = (timestamp + samples) % (1 << 32)
        self.count += samples
        return jumped


@dataclass(frozen=True)
class Announced:
    """A call that is to come to a port."""

    call: str
    leg: str
    user: str
    form: Format | None  # of whatever payload type it has; None: by payload type
    until: float


class RtpPort(asyncio.DatagramProtocol):
    """One port."""

    def __init__(self, service: Service, port: int) -> None:
        self._service, self.port = service, port
        self._rules = service.settings.rtp
        self._formats = self._rules.formats()
        self._transport: asyncio.DatagramTransport | None = None
        self.announced: Announced | None = None
        self._refused_until = 0.0
        self._forget()

    def _forget(self) -> None:
        self._source: tuple[str, int] | None = None
        self._ssrc = self._type = -1
        self._heard = 0.0
        self._call: Call | None = None
        self._leg = "caller"
        self._order = Reorder(self._rules.reorder_ms / 1000)
        self._clock: MediaClock | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def free(self) -> bool:
        now = time.monotonic()
        return self._call is None and (self.announced is None or self.announced.until < now)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # which asyncio's own does not inherit

    def error_received(self, error: Exception) -> None:
        """Receives what the network says of packets that we do not send."""

    def datagram_received(self, data: bytes, address: tuple) -> None:
        packet = parse_packet(data)
        if packet is None or len(packet.payload) > MOST_PAYLOAD:
            self._service.calls.bad_message(PROTOCOL)
            return
        now = time.monotonic()
        if self._call is None:
            if not self._latch(packet, address, now):
                return
        elif address != self._source or (packet.ssrc != self._ssrc and not self._another_ssrc(packet, now)):
            self._call.counts["foreign_packets"] += 1
            return
        if packet.payload_type != self._type:
            assert self._call is not None
            self._call.counts["pauses" if packet.payload_type in COMFORT_NOISE else "other_payloads"] += 1
            self._order.push(packet.number, None, now)  # no sound of ours, but nothing that is missing
            return
        self._heard = now
        self._pass(self._order.push(packet.number, packet, now), now)

    def _latch(self, packet: Packet, address: tuple, now: float) -> bool:
        """The first packet of a source begins a call. False if there is none of it."""
        calls = self._service.calls
        announced = self.announced if self.announced is not None and self.announced.until >= now else None
        form = announced.form if announced and announced.form else self._formats.get(packet.payload_type)
        if form is None or now < self._refused_until:
            calls.bad_message(PROTOCOL)
            return False
        if not self._rules.allows(address[0]) or (self._rules.known_calls and announced is None):
            calls.refused[PROTOCOL, "address" if announced else "unexpected"] += 1
            return False
        call_id = announced.call if announced else f"rtp-{self.port}-{packet.ssrc:08x}"
        self._leg = announced.leg if announced else "caller"
        try:
            self._call = calls.open(call_id, PROTOCOL, address[0], [self._leg], form, announced.user if announced else "")
        except RefusedError:
            self._refused_until = now + 1.0  # a source does not stop: one refusal a second
            return False
        self.announced = None
        self._source, self._ssrc, self._type = address[:2] if len(address) == 2 else address, packet.ssrc, packet.payload_type
        self._clock = MediaClock(form.rate)
        self._call.hang_ups.append(lambda reason: self.end(reason))
        return True

    def _another_ssrc(self, packet: Packet, now: float) -> bool:
        if now - self._heard < QUIET_S or packet.payload_type not in (self._type, *self._formats):
            return False
        assert self._call is not None
        self._pass(self._order.overdue(now + self._order.hold_s), now)
        self._note()
        self._ssrc, self._order = packet.ssrc, Reorder(self._rules.reorder_ms / 1000)
        self._call.counts["restarts"] += 1
        return True

    def _pass(self, packets: list, now: float) -> None:
        call, clock = self._call, self._clock
        if call is None or clock is None:
            return
        for packet in packets:
            if packet is None or not packet.payload:
                continue
            jumped = clock.place(packet.timestamp, len(packet.payload) // call.form.width, now)
            if jumped is not None:
                call.jump(self._leg, jumped)
            call.write(self._leg, packet.payload, now)
        if self._order.waits and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._order.hold_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._pass(self._order.overdue(now), now)

    def _note(self) -> None:
        assert self._call is not None
        order = self._order
        for name in [n for n in ("received", "lost", "late", "doubled", "restarts") if getattr(order, n)]:
            self._call.counts[f"{name}_packets" if name != "restarts" else name] += getattr(order, name)

    def end(self, reason: str) -> None:
        """The call's end: the port is anybody's again."""
        call = self._call
        if call is None:
            return
        now = time.monotonic()
        self._pass(self._order.overdue(now + self._order.hold_s), now)
        if self._timer is not None:
            self._timer.cancel()
        self._note()
        leg = self._leg
        self._forget()
        call.finish(reason, [leg])

    def close(self) -> None:
        self.end("server is stopped")
        if self._transport is not None:
            self._transport.close()


class RtpPorts:
    """All ports of this process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.ports: list[tuple[str, RtpPort]] = []

    async def listen(self, ranges: tuple[str, ...]) -> None:
        """Raises EdgeEmoError if a port cannot be had. Only even ports: the odd ones are for RTCP (RFC 3550, 11)."""
        loop = asyncio.get_running_loop()
        for text in ranges:
            host, first, last = parse_address(text, PROTOCOL)
            ports = range(first + first % 2, last + 1, 2) if last > first else [first]
            for port in ports:
                made = RtpPort(self._service, port)
                try:
                    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
                    one = socket.socket(family, kind | socket.SOCK_NONBLOCK)
                    with contextlib.suppress(OSError):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
                    one.bind(address)
                except OSError as error:
                    raise EdgeEmoError(
                        f"rtp {host}:{port}: cannot be had ({error.strerror}); --listen rtp=HOST:PORT-PORT chooses others"
                    ) from error
                made.port = one.getsockname()[1]
                await loop.create_datagram_endpoint(lambda made=made: made, sock=one)  # type: ignore[misc]
                self.ports.append((host, made))

    def announce(self, call: str, leg: str, user: str, form: Format | None) -> tuple[str, int]:
        """A port for a call that will come, (host, port). Raises RefusedError where none is free."""
        for host, port in self.ports:
            if port.free:
                port.announced = Announced(call, leg, user, form, time.monotonic() + RESERVED_S)
                return host, port.port
        raise RefusedError("full", "no RTP port is free")

    def end(self, number: int) -> bool:
        """Ends the call on a port; False if there is none."""
        for _, port in self.ports:
            if port.port == number and not port.free:
                port.announced = None
                port.end("ended over HTTP")
                return True
        return False

    def close(self) -> None:
        for _, port in self.ports:
            port.close()
