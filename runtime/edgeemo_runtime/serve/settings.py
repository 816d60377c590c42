"""serve.toml: everything of run.toml (config.py), and what sockets, limits, trust and results want. docs/live-calls.md has it."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgeemo_runtime.documents import read_toml
from edgeemo_runtime.errors import EdgeEmoError, check_range, first_line, printable
from edgeemo_runtime.ops.config import Config, parse_sections
from edgeemo_runtime.serve.formats import Format, parse_format

CAPACITIES = ("plan", "max_streams")
EVENTS = ("begin", "segment", "step", "handoff", "end")
MAX_MESSAGE = 1 << 20
LISTENERS = ("websocket", "audiosocket", "rtp", "http")


@dataclass(frozen=True)
class ServeRules:
    engines: int = 0  # engine processes; 0: one for each core but the front's, at least one
    capacity: str = CAPACITIES[0]  # calls per engine: what the plan says of costs measured at the start, at most max_streams
    priority: int = 10  # of engines (SCHED_FIFO) where that is allowed and the front has a core; 0: as others
    pin: bool = True  # each engine on a core of its own where there are enough
    spare: bool = True  # a process with everything loaded but the model waits for an engine to die (about 40 MB)
    restart_s: float = 0.1  # before an engine that died is started again; doubled each time it dies young
    silent_s: float = 10.0  # an engine that shows no sign of life for so long is started anew
    replay_s: float = 2.0  # of a call's audio that its next engine hears again at most; less where calls are many

    def __post_init__(self) -> None:
        check_range(self, "engines must lie in 0..64", 0 <= self.engines <= 64)
        check_range(self, f"capacity must be one of {', '.join(CAPACITIES)}", self.capacity in CAPACITIES)
        check_range(self, "priority must lie in 0..99", 0 <= self.priority <= 99)
        check_range(self, "restart_s must lie in (0, 60]", 0 < self.restart_s <= 60)
        check_range(self, "silent_s must lie in [1, 600]", 1 <= self.silent_s <= 600)
        check_range(self, "replay_s must lie in [0, 4]", 0 <= self.replay_s <= 4)

    def engine_count(self) -> int:
        return self.engines or max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(frozen=True)
class ListenRules:
    websocket: tuple[str, ...] = ("127.0.0.1:8081",)
    audiosocket: tuple[str, ...] = ("127.0.0.1:9092",)
    rtp: tuple[str, ...] = ("127.0.0.1:20000-20199",)  # the even ports of each range, one call each
    http: tuple[str, ...] = ("127.0.0.1:8080",)

    def __post_init__(self) -> None:
        for name in LISTENERS:
            for text in getattr(self, name):
                parse_address(text, name)


@dataclass(frozen=True)
class LimitRules:
    handshake_s: float = 5.0  # from a connection to its first sound message
    idle_s: float = 30.0  # without audio before a call ends
    max_call_s: float = 14_400.0
    message_bytes: int = 65_536  # of one WebSocket message
    unread_bytes: int = 262_144  # that a client leaves unread before it is dropped
    unread_events: int = 1_000  # the same of events that wait for a subscriber, a broker or a webhook
    per_address: int = 512  # connections from one address at a time
    opens_per_s: float = 200.0  # new connections from one address, in the long run
    subscribers: int = 64  # of server-sent events
    drain_s: float = 30.0  # that running calls get to end after SIGTERM

    def __post_init__(self) -> None:
        for name in ("handshake_s", "idle_s", "max_call_s", "opens_per_s"):
            check_range(self, f"{name} must be positive", getattr(self, name) > 0)
        check_range(self, "drain_s must not be negative", self.drain_s >= 0)
        good = 1024 <= self.message_bytes <= MAX_MESSAGE
        check_range(self, f"message_bytes must lie in 1024..{MAX_MESSAGE}", good)
        for name in ("unread_bytes", "unread_events", "per_address", "subscribers"):
            check_range(self, f"{name} must be at least 1", getattr(self, name) >= 1)


@dataclass(frozen=True)
class AuthRules:
    tokens: tuple[str, ...] = ()  # files; each line of them is a bearer token
    origins: tuple[str, ...] = ()  # of pages elsewhere whose scripts may connect: "https://desk.example.com"
    insecure: bool = False  # serve others than this machine without authentication
    twilio_token: str = ""  # file with the account's auth token
    twilio_url: str = ""  # as Twilio knows it, where a proxy changes it: "wss://calls.example.com/"
    audiohook_keys: str = ""  # file; each line: API key, space, client secret in base64


@dataclass(frozen=True)
class TlsRules:
    certificate: str = ""  # PEM files, for the WebSocket and HTTP listeners
    key: str = ""
    client_ca: str = ""  # clients must bring a certificate of this authority

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise EdgeEmoError("certificate and key belong together")
        if self.client_ca and not self.certificate:
            raise EdgeEmoError("client_ca needs certificate and key")


@dataclass(frozen=True)
class PeerRules:
    """For protocols without authentication of their own: AudioSocket and RTP."""

    allow: tuple[str, ...] = ()  # addresses or networks; empty: any
    known_calls: bool = False  # only calls that were announced over HTTP (PUT /v1/expected/ID, POST /v1/rtp)

    def __post_init__(self) -> None:
        for text in self.allow:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError as error:
                raise EdgeEmoError(f"allow takes addresses and networks ({first_line(error)})") from None

    def allows(self, address: str) -> bool:
        if not self.allow:
            return True
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in ipaddress.ip_network(text, strict=False) for text in self.allow)


@dataclass(frozen=True)
class RtpRules(PeerRules):
    payload_types: tuple[str, ...] = ()  # dynamic ones: "96=s16be/16000"
    reorder_ms: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "reorder_ms must lie in 0..1000", 0 <= self.reorder_ms <= 1000)
        self.formats()

    def formats(self) -> dict[int, Format]:
        """By payload type (RFC 3551, 6): PCMU, PCMA, L16 of one channel, and those of ``payload_types``."""
        found = {0: Format("mulaw", 8000), 8: Format("alaw", 8000), 11: Format("s16be", 44100)}
        for text in self.payload_types:
            number, equal, rest = text.partition("=")
            encoding, slash, rate = rest.partition("/")
            if not (equal and slash and number.isascii() and number.isdigit() and int(number) < 128):
                raise EdgeEmoError(f'payload_types are written "96=s16be/16000", not {printable(text)}')
            found[int(number)] = parse_format("s16be" if encoding.upper() == "L16" else encoding, rate)
        return found


@dataclass(frozen=True)
class ResultRules:
    mqtt: str = ""  # mqtt://[user@]host[:port][/topic]; mqtts:// for TLS
    mqtt_password: str = ""  # file
    webhook: str = ""  # http or https URL that gets each event by POST
    webhook_secret: str = ""  # file; the key of the HMAC in X-EdgeEmo-Signature
    events: tuple[str, ...] = ("begin", "segment", "handoff", "end")  # that go to MQTT and the webhook
    tries: int = 6  # of a webhook before an event is given up

    def __post_init__(self) -> None:
        if wrong := set(self.events) - set(EVENTS):
            raise EdgeEmoError(f"events are {', '.join(EVENTS)}, not {printable(', '.join(sorted(wrong)))}")
        check_range(self, "tries must lie in 1..20", 1 <= self.tries <= 20)
        if self.mqtt and not self.mqtt.startswith(("mqtt://", "mqtts://")):
            raise EdgeEmoError("mqtt is an address such as mqtt://127.0.0.1:1883/edgeemo")
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise EdgeEmoError("webhook is an http or https address")


@dataclass(frozen=True)
class Settings:
    serve: ServeRules = field(default_factory=ServeRules)
    listen: ListenRules = field(default_factory=ListenRules)
    limits: LimitRules = field(default_factory=LimitRules)
    auth: AuthRules = field(default_factory=AuthRules)
    tls: TlsRules = field(default_factory=TlsRules)
    audiosocket: PeerRules = field(default_factory=PeerRules)
    rtp: RtpRules = field(default_factory=RtpRules)
    results: ResultRules = field(default_factory=ResultRules)


def load_settings(path: Path | None) -> tuple[Settings, Config]:
    """Raises EdgeEmoError naming the file, section and key that is wrong."""
    document = read_toml(path) if path else {}
    ours = {f.name for f in fields(Settings)}
    known = ours | {f.name for f in fields(Config)}
    path = path or Path("serve.toml")
    for name in document:
        if name not in known:
            raise EdgeEmoError(f"{path}: no section [{printable(name)}]; there are {', '.join(sorted(known))}")
    mine = parse_sections(path, {k: v for k, v in document.items() if k in ours}, Settings)
    rest = parse_sections(path, {k: v for k, v in document.items() if k not in ours}, Config)
    return Settings(**mine), Config(**rest)


def config_from(document: dict[str, Any]) -> Config:
    """A Config from ``dataclasses.asdict`` of one, after JSON."""
    made = {}
    for part in fields(Config):
        kind: Any = type(getattr(Config(), part.name))
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in document[part.name].items()}
        made[part.name] = kind(**values)
    return Config(**made)


def parse_address(text: str, listener: str) -> tuple[str, int, int]:
    """HOST:PORT as (host, port, port), HOST:PORT-PORT (for RTP) as (host, first, last). Raises EdgeEmoError."""
    host, _, ports = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    first, dash, last = ports.partition("-")
    last = last if dash else first
    good = bool(host) and all(p.isascii() and p.isdigit() and len(p) < 6 and int(p) < 65536 for p in (first, last))
    if not good or (dash and (listener != "rtp" or int(first) > int(last) or int(first) == 0)):
        form = "HOST:PORT-PORT" if listener == "rtp" else "HOST:PORT"
        raise EdgeEmoError(f"{listener} listens at {form}, not at {printable(text)}")
    return host, int(first), int(last)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def read_secret(name: str) -> str:
    """The first line of a file. Raises EdgeEmoError if it cannot be read, or is empty."""
    return read_lines(name)[0]


def read_lines(name: str) -> list[str]:
    """The lines of a file of secrets, without empty ones and comments. Raises EdgeEmoError if it cannot be read, holds none, or
    others may read it."""
    path = Path(name)
    try:
        if path.stat().st_mode & 0o007:
            raise EdgeEmoError(f"{printable(name)}: others may read this secret; chmod o-rwx")
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise EdgeEmoError(f"{printable(name)}: cannot be read ({reason})") from error
    kept = [line for line in lines if line and not line.startswith("#")]
    if not kept:
        raise EdgeEmoError(f"{printable(name)}: holds no secret; one on each line")
    return kept
