"""serve.toml, addresses, and what may be served to whom."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from edgeemo_runtime import EdgeEmoError
from edgeemo_runtime.ops.config import Config
from edgeemo_runtime.serve.doorman import Doorman
from edgeemo_runtime.serve.formats import Format
from edgeemo_runtime.serve.main import listening
from edgeemo_runtime.serve.service import Service
from edgeemo_runtime.serve.settings import (
    AuthRules,
    LimitRules,
    ListenRules,
    PeerRules,
    RtpRules,
    Settings,
    config_from,
    load_settings,
    parse_address,
)


def test_both_kinds_of_sections_are_read(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(
        '[engine]\nmax_streams = 12\n[decision]\npreset = "in-car"\n[listen]\nrtp = []\nhttp = ["127.0.0.1:9000"]\n'
        '[rtp]\nallow = ["10.0.0.0/8"]\npayload_types = ["96=L16/16000"]\n[limits]\nidle_s = 5\n'
    )
    settings, config = load_settings(path)
    assert (config.engine.max_streams, config.decision.alpha) == (12, 0.5)
    assert settings.listen.http == ("127.0.0.1:9000",) and settings.listen.rtp == ()
    assert settings.rtp.formats()[96] == Format("s16be", 16000)
    assert settings.limits.idle_s == 5.0
    assert config_from(asdict(config)) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[nothing]\n", r"serve\.toml: no section \[nothing\]"),
        ("[limits]\nidle_s = -1\n", r"\[limits\] idle_s must be positive"),
        ("[limits]\nidle = 1\n", "has no key idle"),
        ('[listen]\nhttp = ["8080"]\n', r"http listens at HOST:PORT, not at 8080"),
        ('[rtp]\nallow = ["10.0.0.0/99"]\n', "allow takes addresses and networks"),
        ('[rtp]\npayload_types = ["L16"]\n', "payload_types are written"),
        ('[results]\nevents = ["all"]\n', "events are begin, segment"),
        ('[results]\nmqtt = "127.0.0.1"\n', "mqtt is an address"),
        ('[tls]\ncertificate = "a.pem"\n', "belong together"),
        ("[serve]\nengines = 1000\n", "engines must lie in"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(EdgeEmoError, match=said):
        load_settings(path)


def test_addresses() -> None:
    assert parse_address("127.0.0.1:80", "http") == ("127.0.0.1", 80, 80)
    assert parse_address("[::1]:20000-20010", "rtp") == ("::1", 20000, 20010)
    for wrong in ("x", ":80", "h:", "h:1-2", "h:99999", "h:-1"):
        with pytest.raises(EdgeEmoError):
            parse_address(wrong, "http")
    settings = listening(Settings(), ["websocket=0.0.0.0:1", "websocket=0.0.0.0:2", "rtp="], "127.0.0.1:3")
    assert settings.listen.websocket == ("0.0.0.0:1", "0.0.0.0:2")
    assert settings.listen.rtp == () and settings.listen.http == ("127.0.0.1:3",)
    assert settings.listen.audiosocket == ListenRules().audiosocket
    with pytest.raises(EdgeEmoError, match="--listen takes"):
        listening(Settings(), ["sip=1.2.3.4:5060"], None)


@pytest.mark.parametrize("listener", ["websocket", "audiosocket", "rtp", "http"])
def test_others_are_not_served_without_authentication(tmp_path: Path, listener: str) -> None:
    """On any address but loopback each listener wants what fits it, or --insecure."""
    where = "0.0.0.0:20000-20001" if listener == "rtp" else "0.0.0.0:0"
    settings = Settings(listen=replace(ListenRules((), (), (), ()), **{listener: (where,)}))
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    peers = PeerRules(allow=("10.0.0.0/8",))
    enough = {
        "audiosocket": replace(settings, audiosocket=peers),
        "rtp": replace(settings, rtp=RtpRules(known_calls=True)),
    }.get(listener, replace(settings, auth=AuthRules(tokens=(str(token),))))

    async def make(settings: Settings) -> None:
        Service(tmp_path / "none.edgeemo", settings, Config())

    with pytest.raises(EdgeEmoError, match=f"{listener} 0.0.0.0.*without authentication"):
        asyncio.run(make(settings))
    asyncio.run(make(enough))
    asyncio.run(make(replace(settings, auth=AuthRules(insecure=True))))


def test_address_lists() -> None:
    rules = PeerRules(allow=("10.0.0.0/8", "192.168.1.7"))
    assert rules.allows("10.2.3.4") and rules.allows("192.168.1.7") and rules.allows("::ffff:10.1.1.1")
    assert not rules.allows("192.168.1.8") and not rules.allows("?")
    assert PeerRules().allows("8.8.8.8")


def test_an_address_has_a_bound_on_connections_and_on_new_ones() -> None:
    door = Doorman(LimitRules(per_address=3, opens_per_s=2.0))
    assert [door.enter("a", 0.0) for _ in range(4)] == [True, True, True, False]
    door.leave("a")
    assert door.enter("a", 0.0)  # the fourth of a burst of 2 s at 2/s
    door.leave("a")
    assert not door.enter("a", 0.1)
    assert door.enter("a", 0.6)
    assert door.enter("b", 0.6)
    assert sum(door.turned_away.values()) == 2
