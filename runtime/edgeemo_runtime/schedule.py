"""When to run a batch, and of whom: as late as the budget allows, so that it is as large as it can be.

Streams become ready every 160 ms, each at its own phase, and an answer is due ``budget_s`` later. A batch waits until half of the
oldest stream's budget, less the batch's own cost, is used up, and is never larger than what costs half the budget. Who becomes
ready just after a batch has begun waits for at most that half, and is then answered within the other half: as long as there is no
more work than time, nobody is late. Once the oldest is late all the same (a swap, another process), batches are as large as they
can be: large ones cost the least for each stream, so the backlog ends soonest.
"""

from __future__ import annotations

import numpy as np

from edgeemo_runtime.counters import BUDGET_S
from edgeemo_runtime.model import MAX_BATCH

PHASES = 16  # parts of a hop by which streams' phases are told apart
LEARNING = 0.05  # weight of the newest measurement of a batch's cost


class Scheduler:
    def __init__(self, cost_s: np.ndarray | None = None, budget_s: float = BUDGET_S) -> None:
        """``cost_s``: seconds of a batch by its size, [0] unused; without it they are learned from ``observe``."""
        self.budget_s = budget_s
        self._known = cost_s is not None
        self.cost_s = np.zeros(MAX_BATCH + 1) if cost_s is None else np.asarray(cost_s, dtype=np.float64).copy()

    @property
    def largest(self) -> int:
        """Streams in a batch: as many as cost at most half the budget."""
        return max(1, int(np.searchsorted(self.cost_s[1:], self.budget_s / 2, side="right")))

    def start_at(self, since: np.ndarray) -> float:
        """When the next batch should begin, given since when streams are ready, longest waiting first; infinity without any."""
        if not len(since):
            return float("inf")
        if len(since) >= self.largest:
            return float(since[0])
        return float(since[0]) + max(0.0, self.budget_s / 2 - float(self.cost_s[len(since)]))

    def size(self, since: np.ndarray, now: float) -> int:
        """Streams in a batch that begins ``now``, at least one, of those ready ``since`` (longest waiting first)."""
        late = now - float(since[0]) + float(self.cost_s[self.largest]) > self.budget_s
        return min(len(since), MAX_BATCH if late else self.largest)

    def observe(self, size: int, seconds: float) -> None:
        """A batch of ``size`` took ``seconds``. Other sizes are held to what that says of them: a larger batch costs no less, and
        for each stream no more. So one slow batch does not keep sizes that are not used any more dear for good."""
        sizes = np.arange(MAX_BATCH + 1) / size
        if not self._known:
            self.cost_s, self._known = seconds * sizes, True
            return
        cost = self.cost_s[size] + LEARNING * (seconds - self.cost_s[size])
        self.cost_s = np.clip(self.cost_s, cost * np.minimum(sizes, 1), cost * np.maximum(sizes, 1))
        self.cost_s[size] = cost


def quietest_lead(counts: np.ndarray, phase: float) -> int:
    """By how many of the PHASES parts a stream that begins at ``phase`` in [0, 1) of a hop should be led in with silence, so that
    its hops end where the fewest others' do. ``counts`` (PHASES,): streams by the part that their hops end in."""
    part = int(phase * PHASES)
    leads = np.arange(PHASES)
    return int(leads[np.argmin(counts[(part - leads) % PHASES])])
