"""A new model for a few users first, watched, then for all or for none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeemo_runtime.counters import ModelCounters
from edgeemo_runtime.errors import EdgeEmoError, check_range

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """ "90", "90s", "30m" or "2h" in seconds. Raises EdgeEmoError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if found is None:
        raise EdgeEmoError(f"{text!r} is no time; write 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2] or "s"]


@dataclass(frozen=True)
class CanaryRules:
    """When a canary has failed: by its own errors, or by being worse than the live model."""

    share: float = 0.05  # of the users, by the tail of their id
    observe: str = "30m"
    min_steps: int = 1000  # nothing is judged before
    max_error_rate: float = 0.001  # answers that are no probabilities
    max_jump_rate_rise: float = 0.02  # over the other model's
    max_late_rise: float = 0.01  # share of answers after the budget, over the other model's

    def __post_init__(self) -> None:
        check_range(self, "share must lie between 0 and 1", 0 < self.share < 1)
        try:
            seconds(self.observe)
        except EdgeEmoError as error:
            raise EdgeEmoError(f"observe {error}") from None
        check_range(self, "min_steps must be at least 1", self.min_steps >= 1)
        for name in ("max_error_rate", "max_jump_rate_rise", "max_late_rise"):
            check_range(self, f"{name} must not be negative", getattr(self, name) >= 0)


def failure(rules: CanaryRules, canary: ModelCounters, live: ModelCounters) -> str:
    """Why the canary must go back, or nothing.

    Jump rates 0.08 and 0.03 with a largest rise of 0.02: "jump rate 0.0800, against 0.0300 of the live model".
    """
    if canary.steps < rules.min_steps:
        return ""
    if canary.errors > rules.max_error_rate * canary.steps:
        return f"{canary.errors} errors in {canary.steps} steps"
    if canary.jump_rate > live.jump_rate + rules.max_jump_rate_rise:
        return f"jump rate {canary.jump_rate:.4f}, against {live.jump_rate:.4f} of the live model"
    if canary.late_share > live.late_share + rules.max_late_rise:
        return f"{canary.late_share:.2%} of the answers late, against {live.late_share:.2%} of the live model's"
    return ""
