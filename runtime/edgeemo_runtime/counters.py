"""Counters of an engine, per model version: cheap enough to be always on."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeemo_runtime.decision import LISTENING, REASONS, Decided
from edgeemo_runtime.model import MAX_BATCH

NOTED = 64  # batches
BUDGET_S = 0.02  # seconds from a hop's last sample to its answer: within 180 ms, of which a hop takes 160
# Seconds of the same. The buckets are finest around the usual budget.
LATENCY_BUCKETS = np.array([0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.16, 0.32, 1.0])


class ModelCounters:
    """Counters of one model. Steps are noted as they come and counted by ``settle`` every so often, which is cheaper than one by
    one. An answer later than ``budget_s`` after its hop's last sample is a late one."""

    def __init__(self, labels: tuple[str, ...], budget_s: float = BUDGET_S) -> None:
        self.names, self.budget_s = labels, budget_s
        self.steps = self.listening = self.decisions = self.changes = self.jumps = self.low = self.errors = self.late = 0
        self.batches = np.zeros(MAX_BATCH + 1, dtype=np.int64)  # by size
        self.labels = np.zeros(len(labels), dtype=np.int64)
        self.handoffs = np.zeros(len(REASONS), dtype=np.int64)  # by reason; [0] is not used
        self.latency = np.zeros(len(LATENCY_BUCKETS) + 1, dtype=np.int64)
        self.latency_sum = 0.0
        self._noted: list[tuple[Decided, np.ndarray]] = []

    def note(self, decided: Decided, waited_s: np.ndarray) -> None:
        self._noted.append((decided, waited_s))
        if len(self._noted) >= NOTED:
            self.settle()

    def settle(self) -> None:
        """Counts what was noted."""
        if not self._noted:
            return
        noted, self._noted = self._noted, []

        def every(name: str) -> np.ndarray:
            return np.concatenate([getattr(d, name) for d, _ in noted])

        label, waited = every("label"), np.concatenate([w for _, w in noted])
        self.steps += len(label)
        self.listening += int((label == LISTENING).sum())
        self.decisions += int(every("decision").sum())
        self.changes += int(every("changed").sum())
        self.jumps += int(every("jumped").sum())
        self.low += int((every("low") & every("decision")).sum())
        self.labels += np.bincount(label[label != LISTENING], minlength=len(self.labels))
        self.handoffs += np.bincount(every("handoff"), minlength=len(REASONS))
        self.handoffs[0] = 0
        self.late += int((waited > self.budget_s).sum())
        self.latency += np.bincount(np.searchsorted(LATENCY_BUCKETS, waited), minlength=len(self.latency))
        self.latency_sum += float(waited.sum())

    @property
    def jump_rate(self) -> float:
        return self.jumps / self.steps if self.steps else 0.0

    @property
    def late_share(self) -> float:
        """Share of the answers that came beyond the budget."""
        return self.late / self.steps if self.steps else 0.0

    def document(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "listening": self.listening,
            "decisions": self.decisions,
            "changes": self.changes,
            "jumps": self.jumps,
            "jump_rate": round(self.jump_rate, 5),
            "low_confidence": self.low,
            "errors": self.errors,
            "late": self.late,
            "late_share": round(self.late_share, 5),
            "labels": dict(zip(self.names, self.labels.tolist(), strict=True)),
            "handoffs": dict(zip(REASONS[1:], self.handoffs[1:].tolist(), strict=True)),
            "batches": {n: int(c) for n, c in enumerate(self.batches) if c},
        }


class StreamCounters:
    """Counters of audio and calls, whatever the model."""

    NAMES = ("opened", "refused", "dropped_hops", "gaps", "filled_samples", "skipped_samples", "resets", "restarts",
             "duplicate_samples", "late_samples", "dropped_samples", "skipped_steps")  # fmt: skip

    def __init__(self) -> None:
        self.opened = self.refused = self.skipped_steps = 0
        self.dropped_hops = self.dropped_samples = 0  # beyond the backlog; of a source that began anew twice within a step
        self.gaps = self.filled_samples = self.skipped_samples = 0  # missing audio: filled with silence, or left out
        self.resets = self.restarts = 0  # calls begun anew: after a long gap, by a source that counts anew
        self.duplicate_samples = self.late_samples = 0

    def add(self, counted: dict[str, int]) -> None:
        for name, count in counted.items():
            setattr(self, name, getattr(self, name) + count)

    def document(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.NAMES}
