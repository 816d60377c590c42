"""Targets of live calls: what telephone systems, networks and strangers may send, whole or damaged."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from functools import cache
from pathlib import Path
from typing import Any

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.ops.config import Config
from edgeemo_runtime.serve.audiosocket import AudioSocketConnection
from edgeemo_runtime.serve.auth import Auth
from edgeemo_runtime.serve.calls import Calls
from edgeemo_runtime.serve.dialects import TABLE, MessageError, by_text
from edgeemo_runtime.serve.doorman import Doorman
from edgeemo_runtime.serve.pool import Pool
from edgeemo_runtime.serve.rtp import RtpPort
from edgeemo_runtime.serve.settings import AuthRules, LimitRules, ServeRules, Settings, load_settings

from tests.fuzz.mutate import damaged, damaged_document, damaged_text
from tests.fuzz.targets import ROOT, folder, target

PAYLOAD = "/38AfwB/AH8="
MULAW, PCMU = {"encoding": "audio/x-mulaw", "sampleRate": 8000}, {"encoding": "PCMU", "sample_rate": 8000}
SIGNED = 'sig1=("@request-target" "@authority" "x-api-key");keyid="key-1";nonce="VGhpc0lzQVVuaXF1ZU5vbmNl";created=1'
MEDIA = [{"type": "audio", "format": "PCMU", "channels": ["external", "internal"], "rate": 8000}]
OPEN = {"organizationId": "o", "conversationId": "c-7", "participant": {"id": "p", "ani": "+49", "dnis": ""}, "media": MEDIA}


def _audiohook(kind: str, number: int, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"version": "2", "id": "e1", "type": kind, "seq": number, "serverseq": 0, "position": "PT0S", "parameters": parameters}


def _media(chunk: int) -> dict[str, Any]:
    return {"event": "media", "stream_id": "s", "media": {"track": "inbound", "chunk": str(chunk), "payload": PAYLOAD}}


TALKS: dict[str, list[Any]] = {
    "websocket": [{"edgeemo": 1, "format": "s16", "rate": 8000, "channels": 2, "call": "c"}, bytes(64), {"end": True}],
    "twilio": [
        {"event": "connected", "protocol": "Call", "version": "1.0.0"},
        {"event": "start", "start": {"callSid": "CA1", "tracks": ["inbound"], "mediaFormat": MULAW}},
        _media(1), {"event": "stop"},
    ],
    "telnyx": [
        {"event": "start", "stream_id": "s", "start": {"call_control_id": "v", "media_format": PCMU}},
        _media(1), _media(3), _media(2), {"event": "stop", "stream_id": "s"},
    ],
    "chan_websocket": ["MEDIA_START connection_id:m channel_id:17.4 format:slin16 ptime:20", bytes(640), "MEDIA_XON"],
    "audio_fork": [{"uuid": "u", "rate": 8000, "channels": "stereo"}, bytes(64)],
    "audiohook": [
        _audiohook("open", 1, OPEN), _audiohook("ping", 2, {"rtt": "PT0.1S"}), bytes(64),
        _audiohook("discarded", 3, {"start": "PT1S", "discarded": "PT1.5S"}), _audiohook("close", 4, {"reason": "end"}),
    ],
    "vosk": [{"config": {"sample_rate": 16000}}, bytes(640), {"eof": 1}],
    "sherpa": [bytes(640), "Done"],
    "vonage": [{"event": "websocket:connected", "content-type": "audio/l16;rate=16000", "uuid": "v"}, bytes(640)],
}  # fmt: skip


class _Engine:
    """An engine that takes every call and answers none."""

    index, ready, capacity, channels = 0, True, 64, 0

    def open(self, channel: Any, position: int) -> None:
        channel.engine = self
        self.channels += 1

    def say(self, message: dict[str, Any]) -> None: ...


class _Service:
    def __init__(self, settings: Settings = Settings(serve=ServeRules(engines=1))) -> None:  # noqa: B008 - frozen
        self.settings = settings
        self.pool = _pool()
        self.pool.engines = [_Engine()]  # type: ignore[list-item]
        self.pool.labels = ("angry", "neutral")
        self.calls = Calls(self.pool, settings)
        self.doorman = Doorman(LimitRules())

    def settle(self) -> None:
        """Engines answer what is left; every call must then have ended."""
        for call in list(self.calls.running.values()):
            call.finish("end")
        for channel in list(self.pool.channels.values()):
            self.pool.ended(channel.slot, channel.generation, "", 0)
        if self.calls.running or self.pool.channels:
            raise AssertionError("a call does not end")


@cache
def _pool() -> Pool:
    return Pool(Path("none"), Settings(serve=ServeRules(engines=1)), Config(), [], True)


class _Session:
    """A connection as a dialect sees it, with calls that are real."""

    def __init__(self, service: _Service, query: dict[str, str]) -> None:
        self.query, self.headers, self._service = query, {}, service
        self.dialect: Any = None

    def open(self, call_id: str, legs: Any, form: Any, user: str = "") -> Any:
        return self._service.calls.open(call_id, "fuzz", "?", legs, form, user, [self.dialect])

    def send(self, text: str) -> None:
        text.encode()

    def close(self, code: int, reason: str) -> None: ...


@target(300_000)
def dialect_messages(rng: random.Random) -> None:
    """A talk of a dialect, or of two, with messages damaged, left out or mixed up."""
    talk = list(TALKS[rng.choice(list(TALKS))])
    if rng.random() < 0.2:
        talk += TALKS[rng.choice(list(TALKS))]
    if rng.random() < 0.2:
        rng.shuffle(talk)
    for i in range(len(talk)):
        if rng.random() < 0.4:
            talk[i] = _odd(talk[i], rng)
    named = TABLE[rng.choice(list(TABLE))] if rng.random() < 0.3 else None
    query = {
        rng.choice(("rate", "channels", "call", "format", "steps", "results")): rng.choice(
            ("1", "x", "8000", "-1", "\0", "9" * 400)
        )
    }
    asyncio.run(_talk(talk, named, query if rng.random() < 0.3 else {}))


def _odd(message: Any, rng: random.Random) -> Any:
    if isinstance(message, bytes):
        return damaged(message, rng)
    if isinstance(message, dict) and rng.random() < 0.8:
        return damaged_document(message, rng)
    return damaged_text(message if isinstance(message, str) else json.dumps(message), rng)


async def _talk(talk: list[Any], named: Any, query: dict[str, str]) -> None:
    service = _Service()
    session = _Session(service, query)
    try:
        for message in talk:
            data = message if isinstance(message, bytes | str) else json.dumps(message)
            if session.dialect is None:
                session.dialect = (named or (TABLE["sherpa"] if isinstance(data, bytes) else by_text(data)))(session)
            session.dialect.binary(data) if isinstance(data, bytes) else session.dialect.text(data)
    except MessageError as error:
        raise EdgeEmoError(str(error)) from error
    finally:
        service.settle()


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def write(self, data: Any) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


@target(60_000)
def audiosocket_stream(rng: random.Random) -> None:
    """A call's frames, damaged, in pieces of any size."""
    frames = [b"\x01\x00\x10" + rng.randbytes(16)]
    for _ in range(rng.randrange(1, 12)):
        payload = rng.randbytes(rng.choice((0, 1, 320, 321, 3000)))
        kind = rng.choice((0x10, 0x10, 0x10, 0x03, 0x12, rng.randrange(256)))
        frames.append(bytes([kind]) + struct.pack(">H", len(payload)) + payload)
    stream = b"".join([*frames, b"\0\0\0"])
    if rng.random() < 0.7:
        stream = damaged(stream, rng)
    asyncio.run(_stream(stream, rng))


async def _stream(stream: bytes, rng: random.Random) -> None:
    service, transport = _Service(), _Transport()
    connection = AudioSocketConnection(service)  # type: ignore[arg-type]
    connection.connection_made(transport)
    while stream and not transport.is_closing():
        size = rng.choice((1, 100, 4000, 100_000))
        connection.data_received(stream[:size])
        stream = stream[size:]
    connection.connection_lost(None if rng.random() < 0.5 else ConnectionResetError())
    service.settle()


@target(60_000)
def rtp_stream(rng: random.Random) -> None:
    """Packets of one or two sources, lost, doubled, late and damaged."""
    number, stamp, packets = rng.randrange(65536), rng.getrandbits(32), []
    for i in range(rng.randrange(1, 40)):
        kind = rng.choice((0, 0, 0, 8, 11, 13, 101))
        head = struct.pack("!BBHII", 0x80, kind, (number + i) % 65536, (stamp + 160 * i) % 2**32, rng.choice((1, 1, 1, 2)))
        packets.append(head + rng.randbytes(rng.choice((0, 1, 160, 160, 1400))))
        if rng.random() < 0.1:
            stamp, number = rng.getrandbits(32), rng.randrange(65536)
    packets = [damaged(p, rng) if rng.random() < 0.1 else p for p in packets for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    if rng.random() < 0.5:
        packets.sort(key=lambda _: rng.random())
    asyncio.run(_packets(packets, rng))


async def _packets(packets: list[bytes], rng: random.Random) -> None:
    service = _Service()
    port = RtpPort(service, 20000)  # type: ignore[arg-type]
    for packet in packets:
        port.datagram_received(packet, ("127.0.0.1", rng.choice((5, 5, 5, 6))))
    port.end("end")
    service.settle()


@target(30_000)
def serve_toml(rng: random.Random) -> None:
    path = folder() / "serve.toml"
    path.write_text(damaged_text((ROOT / "runtime/deploy/serve.toml").read_text(), rng), errors="replace")
    load_settings(path)


@target(60_000)
def signed_headers(rng: random.Random) -> None:
    """Headers of signatures and tokens: none of them raises, none that is damaged holds."""
    good = {
        "Host": "h", "X-API-KEY": "key-1", "Authorization": "Basic dXNlcjp0b2tlbg==", "Signature": "sig1=:AAAA:",
        "Signature-Input": SIGNED, "Origin": "http://h", "X-Twilio-Signature": "AAAA",
    }  # fmt: skip
    headers = {k: damaged(v.encode(), rng).decode("latin1") if rng.random() < 0.5 else v for k, v in good.items()}
    auth = _auth()
    if auth.audiohook(headers, "/", 1) or auth.twilio(headers, "wss://h/"):
        raise AssertionError("a signature that is none holds")
    auth.headers(headers), auth.origin(headers), auth.host(headers), auth.session(headers["Host"])


@cache
def _auth() -> Auth:
    for name, text in (("token", "token\n"), ("twilio", "t\n"), ("keys", "key-1 AAAAAAAA\n")):
        (folder() / name).write_text(text)
        (folder() / name).chmod(0o600)
    rules = AuthRules((str(folder() / "token"),), twilio_token=str(folder() / "twilio"), audiohook_keys=str(folder() / "keys"))
    return Auth(Settings(auth=rules))
