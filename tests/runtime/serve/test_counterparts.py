"""Programs that nobody here wrote, at the other end: ffmpeg, GStreamer, baresip, mosquitto, HAProxy, Vosk's client."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
from edgeemo_runtime.serve.formats import decode
from edgeemo_runtime.serve.settings import ResultRules, Settings

from tests.conftest import ROOT, speech
from tests.runtime.serve.conftest import Running
from tests.runtime.serve.talk import Listener, alone, ask, pieces, steps_of, talk, wait_for

pytestmark = pytest.mark.slow
SECONDS = 3
HEADER = {"edgeemo": 1, "format": "s16", "rate": 8000, "steps": True}


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [p for p in programs if shutil.which(p) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed; `make counterparts`")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    soundfile.write(path, np.asarray(speech(3, 30))[: SECONDS * 8000], 8000, subtype="PCM_16")
    return path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def program(*command: object, ready: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process next to the test; ``ready``: a port that it opens."""
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if ready is not None:
            wait_for(lambda: _open(ready))
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@needs("ffmpeg")
@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw"])
def test_ffmpeg_over_rtp(running: Running, artifact: Path, clip: Path, tmp_path: Path, codec: str) -> None:
    """In real time, to a port that it was given; answers as Engine's on the bytes that ffmpeg makes."""
    call = "ffmpeg-" + uuid.uuid4().hex
    _, said = ask(running, "POST", "/v1/rtp", json={"call": call})
    raw, law = tmp_path / "raw", codec.removeprefix("pcm_")
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", clip, "-c:a", codec, "-f", law, raw], check=True)

    def work() -> None:
        to = ["-c:a", codec, "-f", "rtp", f"rtp://127.0.0.1:{said['port']}?pkt_size=172"]
        subprocess.run(["ffmpeg", "-loglevel", "error", "-re", "-i", clip, *to], check=True, stdout=subprocess.DEVNULL)
        ask(running, "DELETE", f"/v1/rtp/{said['port']}")

    events = Listener(running).during(call, work)
    assert steps_of(events) == alone(artifact, decode(raw.read_bytes(), law))


@needs("gst-launch-1.0")
def test_gstreamer_over_rtp(running: Running, artifact: Path, clip: Path, tmp_path: Path) -> None:
    """L16 of a dynamic payload type, announced."""
    call = "gst-" + uuid.uuid4().hex
    _, said = ask(running, "POST", "/v1/rtp", json={"call": call, "format": "L16", "rate": 8000})

    def work() -> None:
        source = ["filesrc", f"location={clip}", "!", "wavparse", "!", "audioconvert", "!", "audio/x-raw,format=S16BE"]
        sink = ["!", "rtpL16pay", "pt=96", "!", "udpsink", "host=127.0.0.1", f"port={said['port']}"]
        subprocess.run(["gst-launch-1.0", "-q", *source, *sink], check=True, timeout=60)
        ask(running, "DELETE", f"/v1/rtp/{said['port']}")

    import soundfile

    samples = soundfile.read(clip, dtype="int16")[0]
    assert steps_of(Listener(running).during(call, work)) == alone(artifact, samples.astype(np.float32) / 32768)


def _phone(folder: Path, port: int, clip: Path) -> None:
    """Configures baresip, without a sound card or a registrar: it says what is in ``clip``."""
    modules = next(Path("/usr/lib").glob("**/baresip/modules"))
    named = "".join(f"module {name}.so\n" for name in ("g711", "aufile", "account", "menu"))
    folder.mkdir()
    (folder / "config").write_text(
        f"sip_listen 127.0.0.1:{port}\naudio_source aufile,{clip}\naudio_player aufile,/dev/null\naudio_alert aufile,/dev/null\n"
        f"module_path {modules}\n{named}"
    )
    (folder / "accounts").write_text(f"<sip:phone@127.0.0.1:{port}>;regint=0;audio_codecs=pcmu\n")
    (folder / "contacts").write_text("")


@contextmanager
def rtp_relay(port: int) -> Iterator[tuple[int, bytearray]]:
    """A port that hands RTP on to ``port``, and the audio that came by."""
    heard = bytearray()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(("127.0.0.1", 0))
        link.settimeout(0.2)
        ended = threading.Event()

        def pass_on() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    packet = link.recv(2000)
                    heard.extend(packet[12:])
                    link.sendto(packet, ("127.0.0.1", port))

        thread = threading.Thread(target=pass_on)
        thread.start()
        try:
            yield link.getsockname()[1], heard
        finally:
            ended.set()
            thread.join()


@needs("baresip", "sipp")
def test_a_sip_phone(running: Running, artifact: Path, clip: Path, tmp_path: Path) -> None:
    """baresip calls; sipp, in a telephone system's place, answers with the port of the service, to which the phone then talks."""
    call = "sip-" + uuid.uuid4().hex
    _, said = ask(running, "POST", "/v1/rtp", json={"call": call})
    pbx_port, phone_port = free_port(), free_port()
    _phone(tmp_path / "phone", phone_port, clip)
    scenario = Path(__file__).with_name("sip_answer.xml")
    pbx = ["-sf", scenario, "-i", "127.0.0.1", "-p", pbx_port, "-m", 1, "-nostdin"]
    with rtp_relay(said["port"]) as (port, heard):

        def work() -> None:
            with program("sipp", *pbx, "-key", "edgeemo_port", port):
                phone = ["-f", tmp_path / "phone", "-e", f"/dial sip:edgeemo@127.0.0.1:{pbx_port}", "-t", SECONDS + 3]
                subprocess.run(["baresip", *map(str, phone)], check=True, capture_output=True, timeout=60)
            ask(running, "DELETE", f"/v1/rtp/{said['port']}")

        events = Listener(running).during(call, work)
    assert len(heard) >= SECONDS * 8000
    assert steps_of(events) == alone(artifact, decode(bytes(heard), "mulaw"))


@needs("mosquitto")
def test_mosquitto(serve: Callable[..., Running], tmp_path: Path) -> None:
    """The broker comes after the first events, and goes and comes again: none of them is missing."""
    aiomqtt = pytest.importorskip("aiomqtt")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    running = serve(Settings(results=ResultRules(mqtt=f"mqtt://127.0.0.1:{port}/desk")))
    audio = (np.asarray(speech(3, 30)) * 32767).astype("<i2").tobytes()
    calls = [uuid.uuid4().hex for _ in range(2)]
    got: list[tuple[str, dict]] = []

    async def subscribe() -> None:
        async with aiomqtt.Client("127.0.0.1", port) as client:
            await client.subscribe("desk/#", qos=1)
            async for message in client.messages:
                got.append((str(message.topic), json.loads(message.payload)))
                if got[-1][1]["type"] == "end":
                    return

    for call in calls:
        before = len(got)
        listener = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(_patient(subscribe), 60)))
        listener.start()
        talk(running, [json.dumps({**HEADER, "call": call}), *pieces(audio, 3200), '{"end": true}'])
        with program("mosquitto", "-c", config, ready=port):
            listener.join(60)
        types = [event["type"] for topic, event in got[before:] if topic == f"desk/{call}/{event['type']}"]
        assert types[-1] == "end" and types.count("segment") >= 1
    running.close()


async def _patient(work: Callable) -> None:
    import aiomqtt

    while True:
        try:
            await work()
            return
        except aiomqtt.MqttError:
            await asyncio.sleep(0.05)


@needs("haproxy")
def test_haproxy_before_two_instances(serve: Callable[..., Running], tmp_path: Path) -> None:
    """Calls go to the instance with fewer; one that is drained gets no more, and its running call goes on to its end."""
    one, two = serve(), serve()
    front = free_port()
    config = tmp_path / "haproxy.cfg"
    text = (ROOT / "runtime" / "deploy" / "haproxy.cfg").read_text().replace("0.0.0.0:8081", f"127.0.0.1:{front}")
    for address, instance in (("192.168.7.11", one), ("192.168.7.12", two)):
        text = text.replace(f"{address}:8081 port 8080", f"127.0.0.1:{instance.port('websocket')} port {instance.port('http')}")
    config.write_text(text)
    audio = (np.asarray(speech(3, 10)) * 32767).astype("<i2").tobytes()

    async def run() -> None:
        async with aiohttp.ClientSession() as session:

            async def call() -> aiohttp.ClientWebSocketResponse:
                ws = await session.ws_connect(f"http://127.0.0.1:{front}", compress=0)
                await ws.send_str(json.dumps(HEADER))
                assert json.loads((await ws.receive()).data)["type"] == "begin"
                return ws

            async def finish(ws: aiohttp.ClientWebSocketResponse) -> list[dict]:
                for piece in pieces(audio, 3200):
                    await ws.send_bytes(piece)
                await ws.send_str('{"end": true}')
                return [json.loads(m.data) async for m in ws]

            sockets = [await call() for _ in range(4)]
            assert len(one.service.calls.running) == len(two.service.calls.running) == 2
            async with session.post(one.http + "/v1/drain") as answer:
                assert answer.status == 200
            await asyncio.sleep(1.5)
            sockets += [await call() for _ in range(3)]
            assert (len(one.service.calls.running), len(two.service.calls.running)) == (2, 5)
            for ws in sockets:
                events = await finish(ws)
                assert events[-1]["type"] == "end" and len([e for e in events if e["type"] == "step"]) == 10

    with program("haproxy", "-f", config, "-db", ready=front):
        asyncio.run(asyncio.wait_for(run(), 60))
    one.close()
    two.close()


@needs("ffmpeg")
def test_the_client_that_comes_with_vosk(running: Running, clip: Path) -> None:
    """The part of vosk-transcriber that talks to a server, with its ffmpeg: its text is our labels."""
    transcriber = pytest.importorskip("vosk.transcriber.transcriber").Transcriber
    arguments = SimpleNamespace(args=SimpleNamespace(server=f"ws://127.0.0.1:{running.port('websocket')}"))

    async def run() -> list[dict]:
        process = await transcriber.resample_ffmpeg_async(arguments, clip)
        return (await transcriber.recognize_stream_server(arguments, process))[0]

    results = asyncio.run(asyncio.wait_for(run(), 60))
    words = [word for result in results for word in result.get("result", ())]
    assert words and {w["word"] for w in words} <= {*running.service.pool.labels, "annoyed", "furious"}
    assert words[0]["start"] < 2.0 and words[-1]["end"] == pytest.approx(SECONDS, abs=0.2)
