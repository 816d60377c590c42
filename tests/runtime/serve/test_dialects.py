"""Messages of telephone systems, word for word, and what of it becomes a call; garbage in every dialect."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from edgeemo_runtime import EdgeEmoError
from edgeemo_runtime.serve.dialects import TABLE, Dialect, MessageError, by_text, by_upgrade
from edgeemo_runtime.serve.events import Event
from edgeemo_runtime.serve.formats import Format
from hypothesis import given, settings
from hypothesis import strategies as st

ULAW = base64.b64encode(bytes(range(160))).decode()


class FakeCall:
    """Keeps what a dialect does with its call."""

    def __init__(self, call_id: str, legs: Sequence[str], form: Format, user: str) -> None:
        self.id, self.form, self.user = call_id, form, user
        self.legs = {leg: bytearray() for leg in legs}
        self.ended = ""
        self.skipped: list[tuple[str, int]] = []

    def feed(self, leg: str, data: bytes) -> None:
        self.write(leg, data)

    def write(self, leg: str, data: bytes) -> None:
        self.legs[leg] += data

    def skip(self, leg: str, samples: int) -> None:
        self.skipped.append((leg, samples))

    def finish(self, reason: str, legs: Sequence[str] = ()) -> None:
        self.ended = reason


class FakeSession:
    def __init__(self, query: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> None:
        self.query, self.headers = query or {}, headers or {}
        self.calls: list[FakeCall] = []
        self.sent: list[Any] = []
        self.closed: tuple[int, str] | None = None

    def open(self, call_id: str, legs: Sequence[str], form: Format, user: str = "") -> Any:
        self.calls.append(FakeCall(call_id, legs, form, user))
        return self.calls[-1]

    def send(self, text: str) -> None:
        self.sent.append(json.loads(text) if text.startswith("{") else text)

    def close(self, code: int, reason: str) -> None:
        self.closed = code, reason


def talk(kind: type[Dialect] | None, messages: Sequence[Any], **session: Any) -> tuple[FakeSession, Dialect]:
    """The dialect of the first message (or ``kind``) after all messages: text, bytes, or objects sent as JSON."""
    fake = FakeSession(**session)

    async def run() -> Dialect:
        dialect = None if kind is None else kind(fake)  # type: ignore[arg-type]
        for message in messages:
            text = json.dumps(message) if isinstance(message, dict) else message
            if dialect is None:
                dialect = by_text(text)(fake)  # type: ignore[arg-type]
            dialect.binary(text) if isinstance(text, bytes) else dialect.text(text)
        assert dialect is not None
        return dialect

    return fake, asyncio.run(run())


def segment(final: bool, label: str = "angry") -> Event:
    return Event("segment", "c", leg="caller", label=label, intensity=None, confidence=0.8, begin_s=0.0, end_s=0.64, final=final)


def test_twilio() -> None:
    """Messages as Twilio's documentation has them, both tracks."""
    start = {
        "event": "start", "sequenceNumber": "1", "streamSid": "MZ18ad3ab5a668481ce02b83e7395059f0",
        "start": {
            "streamSid": "MZ18ad3ab5a668481ce02b83e7395059f0", "accountSid": "AC1", "callSid": "CA8d5",
            "tracks": ["inbound", "outbound"], "customParameters": {"user": "caller-17"},
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        },
    }  # fmt: skip
    media = {
        "event": "media",
        "sequenceNumber": "3",
        "streamSid": "MZ1",
        "media": {"track": "inbound", "chunk": "1", "timestamp": "5"},
    }
    media["media"]["payload"] = ULAW  # type: ignore[index]
    other = {**media, "media": {**media["media"], "track": "outbound"}}  # type: ignore[dict-item]
    stop = {"event": "stop", "sequenceNumber": "5", "streamSid": "MZ1", "stop": {"accountSid": "AC1", "callSid": "CA8d5"}}
    connected = {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    fake, dialect = talk(None, [connected, start, media, media, other, {"event": "mark"}, stop])
    (call,) = fake.calls
    assert (dialect.name, call.id, call.form, call.user) == ("twilio", "CA8d5", Format("mulaw", 8000), "caller-17")
    assert {leg: len(data) for leg, data in call.legs.items()} == {"caller": 320, "agent": 160}
    assert bytes(call.legs["agent"]) == bytes(range(160))
    assert call.ended == "stop"
    dialect.tell(segment(True))
    assert fake.sent == []  # Twilio takes no events of ours, unless it is asked for
    asked, dialect = talk(None, [connected, start], query={"results": "1"})
    dialect.tell(segment(True))
    assert asked.sent[0]["label"] == "angry"


def test_telnyx_is_put_in_order() -> None:
    start = {
        "event": "start", "sequence_number": "1", "stream_id": "32de0dea-53cb",
        "start": {
            "user_id": "3e6f995f", "call_control_id": "v2:T02llQxIyaRkhfRKxgAP8nY511EhFLizdvdUKJiSw8d6A9BborherQ",
            "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
        },
    }  # fmt: skip

    def media(chunk: int) -> dict[str, Any]:
        payload = base64.b64encode(bytes([chunk]) * 160).decode()
        return {
            "event": "media",
            "stream_id": "32de0dea-53cb",
            "media": {"track": "inbound", "chunk": str(chunk), "payload": payload},
        }

    stop = {"event": "stop", "stream_id": "32de0dea-53cb"}
    fake, _ = talk(None, [start, media(1), media(3), media(2), media(5), media(4), media(7), stop])
    assert bytes(fake.calls[0].legs["caller"]) == b"".join(bytes([n]) * 160 for n in (1, 2, 3, 4, 5, 7))
    assert fake.calls[0].id.startswith("v2:T02")


def test_exotel_and_plivo_bring_pcm() -> None:
    start = {
        "event": "start", "sequence_number": 1, "stream_sid": "s1",
        "start": {"stream_sid": "s1", "call_sid": "c9", "media_format": {"encoding": "base64", "sample_rate": "8000"}},
    }  # fmt: skip
    media = {
        "event": "media",
        "stream_sid": "s1",
        "media": {"chunk": 1, "timestamp": "100", "payload": base64.b64encode(b"\1\2" * 800).decode()},
    }
    fake, _ = talk(None, [{"event": "connected"}, start, media])
    assert (fake.calls[0].form, fake.calls[0].id) == (Format("s16", 8000), "c9")
    plivo = {
        "event": "start",
        "start": {
            "callId": "p1",
            "streamId": "q",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-l16", "sampleRate": 16000},
        },
    }
    fake, _ = talk(None, [plivo])
    assert (fake.calls[0].form, fake.calls[0].id) == (Format("s16", 16000), "p1")


def test_asterisk_chan_websocket_either_way() -> None:
    plain = "MEDIA_START connection_id:media_connection1 channel:WebSocket/media_connection1/0x5140001a0 channel_id:1714588.3 "
    plain += "format:ulaw optimal_frame_size:160"
    fake, dialect = talk(None, [plain, bytes(160), "MEDIA_XON", bytes(160)])
    assert (fake.calls[0].id, fake.calls[0].form) == ("1714588.3", Format("mulaw", 8000))
    assert len(fake.calls[0].legs["caller"]) == 320
    dialect.refused("full", "no room")
    assert fake.sent == ["HANGUP"] and fake.closed == (1013, "full")
    said = {"event": "MEDIA_START", "connection_id": "m", "channel_id": "17.4", "format": "slin16", "optimal_frame_size": 640}
    fake, dialect = talk(None, [said])
    assert fake.calls[0].form == Format("s16", 16000)
    dialect.refused("full", "no room")
    assert fake.sent == [{"command": "HANGUP"}]


def test_freeswitch_audio_fork() -> None:
    """Mono without metadata; stereo with it, the right channel being the agent."""
    kind = by_upgrade({}, {}, ["audio.drachtio.org"])
    fake, _ = talk(kind, [b"\1\0" * 160], query={"rate": "16k", "call": "u-1"})
    assert (fake.calls[0].id, fake.calls[0].form, list(fake.calls[0].legs)) == ("u-1", Format("s16", 16000), ["caller"])
    fake, dialect = talk(kind, [{"uuid": "u-2", "rate": 8000, "channels": "stereo"}, b"\1\0\2\0" * 160, "said"])
    assert bytes(fake.calls[0].legs["caller"]) == b"\1\0" * 160
    assert bytes(fake.calls[0].legs["agent"]) == b"\2\0" * 160
    dialect.tell(segment(False))
    assert fake.sent[0]["type"] == "segment"


def test_our_own_header() -> None:
    header = {"edgeemo": 1, "format": "alaw", "rate": 8000, "legs": ["agent"], "call": "c-1", "user": "u", "steps": True}
    fake, dialect = talk(None, [header, bytes(160), {"end": True}])
    call = fake.calls[0]
    assert (call.id, call.form, call.user, list(call.legs), call.ended) == (
        "c-1",
        Format("alaw", 8000),
        "u",
        ["agent"],
        "ended by the client",
    )
    dialect.tell(Event("step", "c-1", leg="agent"))
    assert len(fake.sent) == 1


def test_vosk_clients_get_one_answer_for_each_message() -> None:
    fake, dialect = talk(None, [{"config": {"sample_rate": 16000}}, bytes(640)])
    assert fake.sent == [{"partial": ""}]
    dialect.tell(segment(False))
    dialect.binary(bytes(640))
    dialect.tell(segment(True))
    dialect.binary(bytes(640))
    assert fake.sent[1] == {"partial": "angry"}
    assert fake.sent[2] == {"result": [{"conf": 0.8, "start": 0.0, "end": 0.64, "word": "angry"}], "text": "angry"}
    dialect.text('{"eof" : 1}')
    assert len(fake.sent) == 3
    dialect.tell(segment(True, "sad"))
    dialect.tell(Event("end", "c"))
    assert fake.sent[3]["text"] == "sad"
    assert fake.calls[0].form == Format("s16", 16000)


def test_sherpa_clients_send_floats_from_the_first_message_on() -> None:
    fake, dialect = talk(TABLE["sherpa"], [bytes(4 * 160), "Done"])
    assert (fake.calls[0].form, fake.calls[0].ended) == (Format("f32", 16000), "Done")
    dialect.tell(segment(True))
    dialect.tell(Event("end", "c"))
    assert fake.sent[0]["is_final"] is True and fake.sent[1] == "Done!"


def audiohook(kind: str, number: int, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "2",
        "id": "e160e428",
        "type": kind,
        "seq": number,
        "serverseq": 0,
        "position": "PT0S",
        "parameters": parameters,
    }


MEDIA = [
    {"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000},
    {"type": "audio", "format": "PCMU", "channels": ["external", "internal"], "rate": 8000},
    {"type": "audio", "format": "OPUS", "channels": ["external"], "rate": 48000},
]
OPEN = {
    "organizationId": "o",
    "conversationId": "c-7",
    "participant": {"id": "p", "ani": "+4912", "aniName": "", "dnis": ""},
    "media": MEDIA,
}


def test_audiohook() -> None:
    """open, ping, audio of both channels, paused, close; numbers of our own messages and of theirs."""
    fake, dialect = talk(
        None,
        [
            audiohook("open", 1, OPEN),
            audiohook("ping", 2, {"rtt": "PT0.1S"}),
            b"\1\2" * 160,
            audiohook("discarded", 3, {"start": "PT1S", "discarded": "PT1.5S"}),
            audiohook("close", 4, {"reason": "end"}),
        ],
    )
    (call,) = fake.calls
    assert (call.id, call.user, call.form) == ("c-7", "+4912", Format("mulaw", 8000))
    assert bytes(call.legs["caller"]) == b"\1" * 160 and bytes(call.legs["agent"]) == b"\2" * 160
    assert call.skipped == [("caller", 12000), ("agent", 12000)]
    assert call.ended == "close"
    assert [(m["type"], m["seq"], m["clientseq"]) for m in fake.sent] == [("opened", 1, 1), ("pong", 2, 2)]
    assert fake.sent[0]["parameters"]["media"] == [MEDIA[1]]
    dialect.tell(Event("end", "c-7"))
    assert [m["type"] for m in fake.sent[2:]] == ["event", "closed"]
    assert fake.sent[2]["parameters"]["entities"][0]["type"] == "edgeemo"


def test_audiohook_probes_and_strangers() -> None:
    probe = {**OPEN, "conversationId": "00000000-0000-0000-0000-000000000000"}
    fake, _ = talk(None, [audiohook("open", 1, probe), bytes(100), audiohook("close", 2, {"reason": "end"})])
    assert not fake.calls
    assert [m["type"] for m in fake.sent] == ["opened", "closed"]
    fake, _ = talk(None, [audiohook("open", 1, OPEN)], headers={"Audiohook-Organization-Id": "another"})
    assert not fake.calls and fake.sent[0]["parameters"]["reason"] == "unauthorized"
    with pytest.raises(MessageError):
        talk(None, [audiohook("open", 2, OPEN)])


def test_vonage() -> None:
    fake, _ = talk(None, [{"event": "websocket:connected", "content-type": "audio/l16;rate=16000", "uuid": "v-1"}, bytes(640)])
    assert (fake.calls[0].id, fake.calls[0].form) == ("v-1", Format("s16", 16000))


def test_what_is_no_dialect() -> None:
    for text in ("", "hello", "[]", "{}", '{"event": "media"}', "[" * 100_000, '{"version": "3", "type": "open"}'):
        with pytest.raises(MessageError):
            by_text(text)
    with pytest.raises(MessageError, match="no dialect of that name"):
        by_upgrade({"dialect": "klingon"}, {}, [])


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(ULAW)
NAMES = """event start media payload track tracks chunk mediaFormat encoding sampleRate callSid stream_id config sample_rate eof
edgeemo format rate legs channels end call version id type seq parameters organizationId conversationId discarded content-type
participant ani"""
KEYS = st.sampled_from(NAMES.split())
WORDS = st.sampled_from(
    ["start", "media", "stop", "connected", "inbound", "outbound", "both_tracks", "open", "close", "ping", "audio", "PCMU",
     "external", "2", "1", "MEDIA_START", "ulaw", "slin", "websocket:connected", "PT1S", "audio/l16;rate=8000", "caller", "agent"]
)  # fmt: skip
VALUES = st.recursive(SCALARS | WORDS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=5), max_leaves=12)
MESSAGES = st.one_of(st.binary(max_size=64), st.text(max_size=20), st.dictionaries(KEYS, VALUES, max_size=6))


@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=40)
@given(messages=st.lists(MESSAGES, max_size=6))
def test_garbage_is_refused_in_every_dialect(name: str, messages: list[Any]) -> None:
    """Whatever comes, in whatever order: a call is fed, or the message is refused by name. Nothing else is raised."""
    with contextlib.suppress(MessageError, EdgeEmoError):
        talk(TABLE[name], messages)
