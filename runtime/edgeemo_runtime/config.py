"""One TOML file for everything an operator may set: `edgeemo-run --config`. docs/operations.md has it in full."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgeemo_runtime.canary import CanaryRules
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.decision import PRESETS, DecisionRules
from edgeemo_runtime.engine import BACKLOG_HOPS, OVERLOADS
from edgeemo_runtime.errors import EdgeEmoError, check_range
from edgeemo_runtime.fleet import CARRY


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
        check_range(self, "max_streams must be at least 1", self.max_streams >= 1)
        check_range(self, f"overload must be one of {', '.join(OVERLOADS)}", self.overload in OVERLOADS)
        check_range(self, "backlog_hops must be at least 1", self.backlog_hops >= 1)
        check_range(self, "budget_ms must be positive", self.budget_ms > 0)
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
    status: str = ""  # a JSON file written anew every second, for `edgeemo-run top`

    def __post_init__(self) -> None:
        check_range(self, "port must lie in 0..65535", 0 <= self.port <= 65535)


@dataclass(frozen=True)
class Config:
    engine: EngineRules = field(default_factory=EngineRules)
    audio: AudioRules = field(default_factory=AudioRules)
    decision: DecisionRules = field(default_factory=DecisionRules)
    swap: SwapRules = field(default_factory=SwapRules)
    canary: CanaryRules = field(default_factory=CanaryRules)
    metrics: MetricsRules = field(default_factory=MetricsRules)


def load_config(path: Path) -> Config:
    """Raises EdgeEmoError naming the file, section and key that is wrong."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise EdgeEmoError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgeEmoError(f"{path}: is not TOML ({error})") from error
    sections = {f.name: f.default_factory for f in fields(Config)}
    for name in document:
        if name not in sections:
            raise EdgeEmoError(f"{path}: no section [{name}]; there are {', '.join(sections)}")
    made = {}
    for name, values in document.items():
        if not isinstance(values, dict):
            raise EdgeEmoError(f"{path}: {name} is a section, write [{name}]")
        default: Any = sections[name]()  # type: ignore[operator]
        try:
            made[name] = _section(default, dict(values), name)
        except EdgeEmoError as error:
            raise EdgeEmoError(f"{path}: [{name}] {error}") from None
    return Config(**made)


def _section(default: Any, values: dict[str, Any], name: str) -> Any:
    """``default`` with ``values`` in place of its own, each of its type."""
    if name == "decision" and (preset := values.pop("preset", None)) is not None:
        if preset not in PRESETS:
            raise EdgeEmoError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
        default = PRESETS[preset]
    known = {f.name: getattr(default, f.name) for f in fields(default)}
    for key, value in values.items():
        if key not in known:
            raise EdgeEmoError(f"has no key {key}; there are {', '.join(known)}")
        wanted = type(known[key])
        if isinstance(value, int) and not isinstance(value, bool) and wanted is float:
            value = float(value)
        if type(value) is not wanted:
            raise EdgeEmoError(f"{key} must be {_KINDS[wanted]}, not {value!r}")
        known[key] = value
    return type(default)(**known)


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
