"""Models in a service: swapped under calls, tried as a canary, refused; and what TLS asks of clients."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from edgeemo_runtime.members import pack, read_members
from edgeemo_runtime.ops import store
from edgeemo_runtime.ops.canary import CanaryRules
from edgeemo_runtime.serve.settings import Settings, TlsRules

from tests.conftest import speech
from tests.runtime.serve.conftest import CONFIG, Running
from tests.runtime.serve.talk import ask, pieces, talk, wait_for
from tests.runtime.serve.test_service import HEADER, live_call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def another(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model under another version: its manifest says another day."""
    members = read_members(artifact)
    manifest = json.loads(members.manifest)
    manifest["created"] = "2031-01-01"
    path = tmp_path_factory.mktemp("another") / "another.edgeemo"
    path.write_bytes(pack(json.dumps(manifest).encode(), members.library, members.weights.tobytes()))
    return path


def test_a_new_model_serves_running_calls(artifact: Path, another: Path, tmp_path: Path) -> None:
    """Installed while a call runs: it moves over, no hop is lost; a broken one is refused and nothing changes."""
    models = tmp_path / "models"
    store.install(artifact, models)
    config = replace(CONFIG, swap=replace(CONFIG.swap, watch_s=0.1))
    running = Running(models, config=config)
    with live_call(running) as (_, end):
        wait_for(lambda: running.service.pool.engines[0].version)
        before = running.service.pool.engines[0].version
        name = store.install(another, models)
        wait_for(lambda: running.service.pool.engines[0].version.startswith("2031-01-01"))
        (models / name / "step.so").write_bytes(b"broken")  # what serves is in memory
        events, in_time = end()
        steps = [e for e in events if e["type"] == "step"]
        assert in_time and [round(e["end_s"] / 0.16) for e in steps] == list(range(1, len(steps) + 1))
        versions = [e["model"] for e in steps]
        assert versions[0] == before and versions[-1].startswith("2031-01-01") and sorted(versions) == versions
    running.close()


def test_a_canary_is_judged_and_promoted(artifact: Path, another: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    store.install(artifact, models)
    canary = CanaryRules(share=0.99, observe="1s", min_steps=5, max_jump_rate_rise=1.0, max_late_rise=1.0)
    running = Running(models, config=replace(CONFIG, swap=replace(CONFIG.swap, watch_s=0.1), canary=canary))
    name = store.install(another, models, store.CANARY)
    audio = (np.asarray(speech(3, 5)) * 32767).astype("<i2").tobytes()

    def judged() -> bool:
        talk(running, [json.dumps(HEADER), *pieces(audio, 3200), '{"end": true}'])  # new calls get the canary
        return store.linked(models, store.CURRENT) == name

    wait_for(judged)
    assert store.linked(models, store.CANARY) is None
    running.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate of it for 127.0.0.1 that both ends use."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    name = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *name, "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *name, "-subj", "/CN=board", "-keyout", "board.key", "-out", "board.csr")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san"]
    openssl("x509", "-req", "-in", "board.csr", *sign, "-out", "board.pem")
    return folder


def test_tls_and_client_certificates(serve: Callable[..., Running], certificates: Path) -> None:
    """With a certificate of the authority a call is taken; without one, or without TLS, no connection comes about."""
    files = {
        name: str(certificates / file)
        for name, file in (("certificate", "board.pem"), ("key", "board.key"), ("client_ca", "ca.pem"))
    }
    running = serve(Settings(tls=TlsRules(**files)))
    audio = (np.asarray(speech(3, 5)) * 32767).astype("<i2").tobytes()

    async def call(context: ssl.SSLContext) -> list[dict]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(running.websocket.replace("ws:", "wss:"), ssl=context, compress=0) as ws,
        ):
            await ws.send_str(json.dumps(HEADER))
            for piece in pieces(audio, 3200):
                await ws.send_bytes(piece)
            await ws.send_str('{"end": true}')
            return [json.loads(m.data) async for m in ws]

    context = ssl.create_default_context(cafile=files["client_ca"])
    with pytest.raises(aiohttp.ClientError):
        asyncio.run(call(context))
    context.load_cert_chain(files["certificate"], files["key"])
    assert asyncio.run(call(context))[-1]["type"] == "end"
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        talk(running, [json.dumps(HEADER)])
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        ask(running, "GET", "/healthz")
    running.close()
