"""One TOML file for everything an operator may set: `edgeemo-run --config`. docs/operations.md has it in full."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.decision import PRESETS, DecisionRules
from edgeemo_runtime.documents import read_toml
from edgeemo_runtime.engine import BACKLOG_HOPS, MAX_BACKLOG_HOPS, MAX_STREAMS, OVERLOADS
from edgeemo_runtime.errors import EdgeEmoError, check_range, printable
from edgeemo_runtime.fleet import CARRY
from edgeemo_runtime.ops.canary import CanaryRules


@dataclass(frozen=True)
class EngineRules:
    max_streams: int = 80
    overload: str = "drop-oldest"
    backlog_hops: int = BACKLOG_HOPS
    spread_phases: bool = True
    budget_ms: float = 20.0  # from a hop's last sample to its answer
    cpu: int = -1  # the core to stay on; -1: where the kernel puts it
    priority: int = 0  # before all ordinary processes, 1 to 99 (SCHED_FIFO); 0: as others

    def __post_init__(self) -> None:
        check_range(self, f"max_streams must be 1 to {MAX_STREAMS}", 1 <= self.max_streams <= MAX_STREAMS)
        check_range(self, f"overload must be one of {', '.join(OVERLOADS)}", self.overload in OVERLOADS)
        check_range(self, f"backlog_hops must be 1 to {MAX_BACKLOG_HOPS}", 1 <= self.backlog_hops <= MAX_BACKLOG_HOPS)
        check_range(self, "budget_ms must lie in (0, 10000]", 0 < self.budget_ms <= 10_000)
        check_range(self, "cpu must lie in -1..4095", -1 <= self.cpu < 4096)
        check_range(self, "priority must lie in 0..99", 0 <= self.priority <= 99)


@dataclass(frozen=True)
class SwapRules:
    carry: str = "replay"
    watch_s: float = 1.0  # how often the current link is looked at; 0: only on SIGHUP

    def __post_init__(self) -> None:
        check_range(self, f"carry must be one of {', '.join(CARRY)}", self.carry in CARRY)
        check_range(self, "watch_s must not be negative", self.watch_s >= 0)


@dataclass(frozen=True)
class MetricsRules:
    port: int = 0  # of Prometheus metrics over HTTP; 0: none
    host: str = "127.0.0.1"  # the address it listens on; "0.0.0.0": every IPv4 address of the board
    token_file: str = ""  # its first line is what a client must bring as a bearer token
    status: str = ""  # a JSON file written anew every second, for `edgeemo-run top`

    def __post_init__(self) -> None:
        check_range(self, "port must lie in 0..65535", 0 <= self.port <= 65535)


@dataclass(frozen=True)
class ModelRules:
    require_signature: bool = False  # nothing is installed or run that is not signed by one of ``trust``
    trust: tuple[str, ...] = ()  # minisign public keys, or files that hold one
    allow_writable: bool = False  # take models that others may write

    def __post_init__(self) -> None:
        if self.require_signature and not self.trust:
            raise EdgeEmoError('require_signature needs keys: trust = ["/etc/edgeemo/us.pub"]')


@dataclass(frozen=True)
class Config:
    engine: EngineRules = field(default_factory=EngineRules)
    audio: AudioRules = field(default_factory=AudioRules)
    decision: DecisionRules = field(default_factory=DecisionRules)
    swap: SwapRules = field(default_factory=SwapRules)
    canary: CanaryRules = field(default_factory=CanaryRules)
    metrics: MetricsRules = field(default_factory=MetricsRules)
    models: ModelRules = field(default_factory=ModelRules)


def load_config(path: Path) -> Config:
    """Raises EdgeEmoError naming the file, section and key that is wrong."""
    return Config(**parse_sections(path, read_toml(path), Config))


def parse_sections(path: Path, document: dict[str, Any], config: type) -> dict[str, Any]:
    """The sections of ``document`` as ``config``, a dataclass of sections, has them. Raises as load_config does."""
    sections: dict[str, Any] = {f.name: f.default_factory for f in fields(config)}
    for name in document:
        if name not in sections:
            raise EdgeEmoError(f"{path}: no section [{printable(name)}]; there are {', '.join(sections)}")
    made = {}
    for name, values in document.items():
        if not isinstance(values, dict):
            raise EdgeEmoError(f"{path}: {name} is a section, write [{name}]")
        default = sections[name]()
        try:
            made[name] = _section(default, dict(values), name)
        except EdgeEmoError as error:
            raise EdgeEmoError(f"{path}: [{name}] {error}") from None
    return made


def _section(default: Any, values: dict[str, Any], name: str) -> Any:
    """``default`` with ``values`` in place of its own, each of its type."""
    if name == "decision" and (preset := values.pop("preset", None)) is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise EdgeEmoError(f"preset must be one of {', '.join(PRESETS)}, not {printable(repr(preset)[:60])}")
        default = PRESETS[preset]
    known = {f.name: getattr(default, f.name) for f in fields(default)}
    for key, value in values.items():
        if key not in known:
            raise EdgeEmoError(f"has no key {printable(key)}; there are {', '.join(known)}")
        wanted = type(known[key])
        if isinstance(value, int) and not isinstance(value, bool) and wanted is float:
            value = float(min(max(value, -MAX_NUMBER), MAX_NUMBER))
        if wanted is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
            value = tuple(value)
        too_large = isinstance(value, int | float) and not abs(value) < MAX_NUMBER
        if type(value) is not wanted or too_large:
            raise EdgeEmoError(f"{key} must be {_KINDS[wanted]}, not {printable(repr(value)[:60])}")
        known[key] = value
    return type(default)(**known)


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", tuple: "a list of strings"}
MAX_NUMBER = 1 << 53
