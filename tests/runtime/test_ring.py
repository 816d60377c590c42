"""The rings against the plainest model there is: one list per slot."""

from __future__ import annotations

import numpy as np
from edgeemo_runtime.ring import AudioRings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

SLOTS, STEP, HISTORY, BACKLOG = 3, 5, 7, 4


class RingsLikeLists(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rings = AudioRings(SLOTS, STEP, HISTORY, BACKLOG)
        self.pushed: list[list[float]] = [[] for _ in range(SLOTS)]
        self.taken = [0] * SLOTS
        self.next = 1.0

    @rule(slot=st.integers(0, SLOTS - 1), count=st.integers(0, 60))
    def push(self, slot: int, count: int) -> None:
        assert self.rings.room(slot) == (BACKLOG + 1) * STEP - (len(self.pushed[slot]) - self.taken[slot])
        count = min(count, self.rings.room(slot))
        samples = np.arange(self.next, self.next + count, dtype=np.float32)
        self.next += count
        self.rings.push(slot, samples)
        self.pushed[slot] += samples.tolist()

    @rule()
    def take(self) -> None:
        ready = self.rings.ready()
        assert ready.tolist() == [s for s in range(SLOTS) if len(self.pushed[s]) - self.taken[s] >= STEP]
        out = np.zeros((len(ready), STEP), dtype=np.float32)
        self.rings.take(ready, out)
        for row, slot in zip(out, ready, strict=True):
            assert row.tolist() == self.pushed[slot][self.taken[slot] : self.taken[slot] + STEP]
            self.taken[slot] += STEP

    @rule(slot=st.integers(0, SLOTS - 1), steps=st.integers(0, BACKLOG))
    def drop(self, slot: int, steps: int) -> None:
        steps = min(steps, self.rings.waiting(slot) // STEP)
        self.rings.drop(slot, steps)
        self.taken[slot] += steps * STEP

    @rule(slot=st.integers(0, SLOTS - 1))
    def clear(self, slot: int) -> None:
        self.rings.clear(slot)
        self.pushed[slot], self.taken[slot] = [], 0
        assert not self.rings.samples[slot].any()

    @invariant()
    def history_is_what_was_taken_last(self) -> None:
        for slot in range(SLOTS):
            first = max(0, self.taken[slot] - HISTORY)
            assert self.rings.recent(slot).tolist() == self.pushed[slot][first : self.taken[slot]]


TestRings = RingsLikeLists.TestCase
TestRings.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
