"""What an engine counts, per model version: cheap enough to be always on."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeemo_runtime.decision import REASONS, Decided
from edgeemo_runtime.model import LARGEST_BATCH

NOTED = 64  # batches
# Seconds from a hop's last sample to its answer. The budget is 20 ms, so the buckets are finest there.
LATENCY_BUCKETS = np.array([0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.16, 0.32, 1.0])


class ModelCounters:
    """Of one model. Steps are noted as they come and counted by ``settle`` every so often, which is cheaper than one by one."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.names = labels
        self.steps = self.changes = self.jumps = self.low = self.errors = 0
        self.batches = np.zeros(LARGEST_BATCH + 1, dtype=np.int64)  # by size
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
        self.changes += int(every("changed").sum())
        self.jumps += int(every("jumped").sum())
        self.low += int(every("low").sum())
        self.labels += np.bincount(label, minlength=len(self.labels))
        self.handoffs += np.bincount(every("handoff"), minlength=len(REASONS))
        self.handoffs[0] = 0
        self.latency += np.bincount(np.searchsorted(LATENCY_BUCKETS, waited), minlength=len(self.latency))
        self.latency_sum += float(waited.sum())

    @property
    def jump_rate(self) -> float:
        return self.jumps / self.steps if self.steps else 0.0

    @property
    def late_share(self) -> float:
        """Of the answers with a latency, those beyond 20 ms."""
        total = int(self.latency.sum())
        return float(self.latency[LATENCY_BUCKETS.searchsorted(0.02) + 1 :].sum() / total) if total else 0.0

    def document(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "changes": self.changes,
            "jumps": self.jumps,
            "jump_rate": round(self.jump_rate, 5),
            "low_confidence": self.low,
            "errors": self.errors,
            "late_share": round(self.late_share, 5),
            "labels": dict(zip(self.names, self.labels.tolist(), strict=True)),
            "handoffs": dict(zip(REASONS[1:], self.handoffs[1:].tolist(), strict=True)),
            "batches": {n: int(c) for n, c in enumerate(self.batches) if c},
        }


class StreamCounters:
    """Of audio and calls, whatever the model."""

    NAMES = ("opened", "refused", "dropped_hops", "gaps", "filled_samples", "resets", "duplicate_samples", "skipped_steps")

    def __init__(self) -> None:
        self.opened = self.refused = self.dropped_hops = self.gaps = 0
        self.filled_samples = self.resets = self.duplicate_samples = self.skipped_steps = 0

    def document(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.NAMES}
