"""Answers are equal to the bit to Engine's on the same audio, whichever protocol brought it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime.serve.formats import decode
from edgeemo_runtime.serve.load.clients import mulaw_bytes

from tests.conftest import speech
from tests.runtime.serve.conftest import Running
from tests.runtime.serve.talk import (
    Listener,
    alone,
    ask,
    audiosocket,
    pieces,
    rtp_packets,
    send_rtp,
    steps_of,
    talk,
    twilio_messages,
)

pytestmark = pytest.mark.slow
SPEECH = (np.asarray(speech(3, 12))[: 12 * 1280 - 500] * 32767).astype("<i2")  # the last hop is not whole
OTHER = (np.asarray(speech(40, 12))[: 12 * 1280 - 500] * 32767).astype("<i2")
S16, S16_OTHER, MULAW = SPEECH.tobytes(), OTHER.tobytes(), mulaw_bytes(SPEECH)


@pytest.fixture(scope="module")
def expected(artifact: Path) -> dict[str, list]:
    return {
        "s16": alone(artifact, decode(S16, "s16")), "mulaw": alone(artifact, decode(MULAW, "mulaw")),
        "other": alone(artifact, decode(S16_OTHER, "s16")),
    }  # fmt: skip


@pytest.mark.parametrize("size", [320, 319, 8000])
def test_our_own_header_and_binary(running: Running, expected: dict[str, list], size: int) -> None:
    """Pieces of any size, half samples among them; events on the same socket."""
    header = json.dumps({"edgeemo": 1, "format": "s16", "rate": 8000, "steps": True})
    events, code = talk(running, [header, *pieces(S16, size), '{"end": true}'], until="never")
    assert steps_of(events) == expected["s16"]
    assert events[0]["type"] == "begin" and events[-1]["type"] == "end" and code == 1000
    assert events[-1]["legs"]["caller"]["steps"] == 12
    assert [e["final"] for e in events if e["type"] == "segment"][:1] == [False]


def test_two_channels_are_two_legs(running: Running, expected: dict[str, list]) -> None:
    stereo = np.stack([SPEECH, OTHER], axis=1).tobytes()
    header = json.dumps({"edgeemo": 1, "format": "s16", "rate": 8000, "channels": 2, "steps": True})
    events, _ = talk(running, [header, *pieces(stereo, 641), '{"end": true}'])
    assert steps_of(events, "caller") == expected["s16"]
    assert steps_of(events, "agent") == expected["other"]


def test_two_connections_are_two_legs_of_one_call(running: Running, expected: dict[str, list]) -> None:
    """The second comes while the first is open; the call ends with the last of them."""
    call = str(uuid.uuid4())
    header = {"edgeemo": 1, "format": "s16", "rate": 8000, "call": call}
    caller = [json.dumps({**header, "legs": ["caller"]}), *pieces(S16, 320)]
    agent = [json.dumps({**header, "legs": ["agent"]}), *pieces(S16_OTHER, 320), '{"end": true}']

    def work() -> None:
        import asyncio

        import aiohttp

        async def run() -> None:
            async with aiohttp.ClientSession() as session, session.ws_connect(running.websocket, compress=0) as first:
                for m in caller:
                    await (first.send_bytes(m) if isinstance(m, bytes) else first.send_str(m))
                async with session.ws_connect(running.websocket, compress=0) as second:
                    for m in agent:
                        await (second.send_bytes(m) if isinstance(m, bytes) else second.send_str(m))
                    await asyncio.sleep(0.3)
                    await first.send_str('{"end": true}')
                    async for _ in first:
                        pass

        asyncio.run(run())

    events = Listener(running).during(call, work)
    assert steps_of(events, "caller") == expected["s16"] and steps_of(events, "agent") == expected["other"]
    assert set(events[-1]["legs"]) == {"caller", "agent"}


def test_twilio(running: Running, expected: dict[str, list]) -> None:
    events, code = talk(running, twilio_messages("CA" + uuid.uuid4().hex, MULAW), "/?results=1&steps=1", until="never")
    assert steps_of(events) == expected["mulaw"] and code == 1000


@pytest.mark.parametrize("pipe", [320, 3000])
def test_audiosocket(running: Running, expected: dict[str, list], pipe: int) -> None:
    call = str(uuid.uuid4())
    events = Listener(running).during(call, lambda: audiosocket(running, call, S16, size=pipe))
    assert steps_of(events) == expected["s16"]
    assert events[-1]["protocol"] == "audiosocket" and events[-1]["reason"] == "hangup"


@pytest.mark.parametrize(("kind", "rate"), [(0x12, 16000), (0x16, 48000), (0x15, 44100)])
def test_audiosocket_at_other_rates(running: Running, artifact: Path, kind: int, rate: int) -> None:
    """Equal to Engine's on audio that the same resampler has made of it."""
    call = str(uuid.uuid4())
    audio = (0.3 * np.sin(np.arange(rate) * 0.05) * 32767).astype("<i2")
    events = Listener(running).during(call, lambda: audiosocket(running, call, audio.tobytes(), kind, size=rate // 50 * 2))
    assert steps_of(events) == alone(artifact, decode(audio.tobytes(), "s16"), rate)


def test_rtp_mulaw(running: Running, expected: dict[str, list]) -> None:
    """Numbers and timestamps wrap; packets change places and come twice; a port that was announced."""
    call = "rtp-" + uuid.uuid4().hex
    status, said = ask(running, "POST", "/v1/rtp", json={"call": call, "leg": "caller", "user": "u-1"})
    assert status == 200
    packets = rtp_packets(MULAW, 160, 160, 0)
    for i in range(3, len(packets) - 3, 5):
        packets[i], packets[i + 1] = packets[i + 1], packets[i]
    packets.insert(20, packets[18])

    def work() -> None:
        send_rtp(said["port"], packets)
        ask(running, "DELETE", f"/v1/rtp/{said['port']}")

    events = Listener(running).during(call, work)
    assert steps_of(events) == expected["mulaw"]
    assert events[-1]["counts"]["received_packets"] == len(packets) and events[-1]["user"] == "u-1"
    assert "lost_packets" not in events[-1]["counts"]


def test_rtp_l16_is_big_endian(running: Running, expected: dict[str, list]) -> None:
    call = "rtp-" + uuid.uuid4().hex
    _, said = ask(running, "POST", "/v1/rtp", json={"call": call, "format": "L16", "rate": 8000})
    packets = rtp_packets(SPEECH.astype(">i2").tobytes(), 320, 160, 96)

    def work() -> None:
        send_rtp(said["port"], packets)
        ask(running, "DELETE", f"/v1/rtp/{said['port']}")

    assert steps_of(Listener(running).during(call, work)) == expected["s16"]


def test_rtp_with_packets_missing_is_silence_there(running: Running, artifact: Path) -> None:
    call = "rtp-" + uuid.uuid4().hex
    _, said = ask(running, "POST", "/v1/rtp", json={"call": call})
    packets = rtp_packets(MULAW, 160, 160, 0)
    del packets[30:33]

    def work() -> None:
        send_rtp(said["port"], packets, 0.004)
        ask(running, "DELETE", f"/v1/rtp/{said['port']}")

    events = Listener(running).during(call, work)
    silent = decode(MULAW, "mulaw").copy()
    silent[30 * 160 : 33 * 160] = 0.0
    assert steps_of(events) == alone(artifact, silent)
    assert events[-1]["counts"]["lost_packets"] == 3


def test_asterisk_freeswitch_and_speech_clients(running: Running, expected: dict[str, list]) -> None:
    def heard(call: str, *arguments: object, **more: object) -> list:
        return steps_of(Listener(running).during(call, lambda: talk(running, *arguments, **more) and None))  # type: ignore[arg-type]

    start = f"MEDIA_START connection_id:m channel:WebSocket/m/0x1 channel_id:{(call := '17.' + uuid.uuid4().hex)} format:slin"
    hang_up = _closing(running)
    assert heard(call, [start, *pieces(S16, 320), hang_up]) == expected["s16"]
    call = uuid.uuid4().hex
    assert (
        heard(call, [json.dumps({"uuid": call}), *pieces(S16, 320), hang_up], protocols=["audio.drachtio.org"]) == expected["s16"]
    )
    call = uuid.uuid4().hex
    floats = decode(S16, "s16").tobytes()
    assert heard(call, [*pieces(floats, 1280), "Done"], f"/?call={call}&rate=8000", until="never") == expected["s16"]
    call = uuid.uuid4().hex
    config = '{"config": {"sample_rate": 8000}}'
    assert heard(call, [config, *pieces(S16, 8000), '{"eof" : 1}'], f"/?call={call}", until="never") == expected["s16"]


def _closing(running: Running) -> str:
    """A message that ends a connection whose protocol has none that says so."""
    return "x" * (running.service.settings.limits.message_bytes + 1)


def test_audiohook(running: Running, expected: dict[str, list]) -> None:
    call = str(uuid.uuid4())
    media = [{"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}]
    opening = {"organizationId": "o", "conversationId": call, "participant": {"id": "p", "ani": "+49"}, "media": media}

    def message(kind: str, number: int, parameters: dict) -> str:
        return json.dumps(
            {"version": "2", "id": "s", "type": kind, "seq": number, "serverseq": 0, "position": "PT0S", "parameters": parameters}
        )

    messages = [message("open", 1, opening), *pieces(MULAW, 1600), message("close", 2, {"reason": "end"})]
    got: list = []
    events = Listener(running).during(call, lambda: got.extend(talk(running, messages, until="closed")[0]))
    assert steps_of(events) == expected["mulaw"]
    assert got[0]["type"] == "opened" and got[-1]["type"] == "closed"
    assert {e["data"]["type"] for m in got[1:-1] for e in m["parameters"]["entities"]} >= {"segment", "end"}
    assert [m["seq"] for m in got] == list(range(1, len(got) + 1))


def test_payloads_may_be_long(running: Running, expected: dict[str, list]) -> None:
    """A whole call in one message, faster than real time: the ring slows the sender down, nothing is lost."""
    long = S16 * 8
    header = json.dumps({"edgeemo": 1, "format": "s16", "rate": 8000, "steps": True})
    events, _ = talk(running, [header, *pieces(long, 60_000), '{"end": true}'])
    assert steps_of(events)[:11] == expected["s16"][:11]
    assert events[-1]["legs"]["caller"]["seconds"] == pytest.approx(len(long) / 16000, abs=0.16)
    assert events[-1]["legs"]["caller"]["lost_samples"] == 0
