"""Audio rings of all streams as one array, so that a batch is gathered without a loop in Python."""

from __future__ import annotations

import numpy as np

from edgeemo_runtime.memory import aligned_zeros


class AudioRings:
    """One ring per slot: audio waiting for its step, and behind it the last ``history`` samples already taken.

    Positions count samples since a slot was cleared and never wrap (int64); the place in the ring is their remainder. A ring is a
    whole number of steps long and steps are taken whole, so that a step lies in one piece and is copied as such.
    """

    def __init__(self, slots: int, step: int, history: int, backlog: int) -> None:
        """``backlog``: whole steps that may wait in a ring; it never grows."""
        self.step, self.history, self.backlog = step, history, backlog
        steps = backlog + 1 + -(-history // step)
        self.samples = aligned_zeros((slots, steps * step), np.float32)
        self.written_samples = aligned_zeros((slots,), np.int64)
        self.taken_samples = aligned_zeros((slots,), np.int64)
        self._begun = np.zeros(slots, dtype=np.int64)  # where the call began (anew): nothing before it is of its history

    @property
    def capacity(self) -> int:
        return self.samples.shape[1]

    def waiting(self, slot: int) -> int:
        """Samples pushed and not taken."""
        return int(self.written_samples[slot] - self.taken_samples[slot])

    def waiting_steps(self, slots: np.ndarray) -> np.ndarray:
        """Whole steps waiting in each of ``slots``."""
        return (self.written_samples[slots] - self.taken_samples[slots]) // self.step

    def written(self, slot: int) -> int:
        return int(self.written_samples[slot])

    def taken(self, slots: np.ndarray) -> np.ndarray:
        """Samples taken or dropped so far, of each of ``slots``."""
        return self.taken_samples[slots]

    def room(self, slot: int) -> int:
        """Samples that may be pushed before the backlog is full."""
        return (self.backlog + 1) * self.step - self.waiting(slot)

    def push(self, slot: int, samples: np.ndarray) -> None:
        """Appends float32 samples, at most ``room`` of them."""
        at = int(self.written_samples[slot]) % self.capacity
        first = min(len(samples), self.capacity - at)
        self.samples[slot, at : at + first] = samples[:first]
        self.samples[slot, : len(samples) - first] = samples[first:]
        self.written_samples[slot] += len(samples)

    def ready(self) -> np.ndarray:
        """Slots with at least one whole step waiting, ascending."""
        return np.flatnonzero(self.written_samples - self.taken_samples >= self.step)

    def take(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Moves the next step of each slot into ``out`` (len(slots), step)."""
        steps = self.samples.reshape(len(self.samples), -1, self.step)
        out[:] = steps[slots, self.taken_samples[slots] // self.step % steps.shape[1]]
        self.taken_samples[slots] += self.step

    def read(self, slot: int, position: int, count: int) -> np.ndarray | None:
        """``count`` samples from ``position`` on; None where they are not in the ring any more, or not yet."""
        written = int(self.written_samples[slot])
        if position < max(0, written - self.capacity) or position + count > written:
            return None
        return self.samples[slot, np.arange(position, position + count) % self.capacity]

    def patch(self, slot: int, position: int, samples: np.ndarray) -> None:
        """Writes over what lies from ``position`` on, but for what a step has taken already."""
        taken = max(0, int(self.taken_samples[slot]) - position)
        at = np.arange(position + taken, position + len(samples)) % self.capacity
        self.samples[slot, at] = samples[taken:]

    def rewind(self, slot: int, position: int) -> None:
        """Takes back what was pushed beyond ``position``, which no step has taken."""
        self.written_samples[slot] = position

    def drop(self, slot: int, steps: int) -> None:
        """Passes over the oldest waiting steps."""
        self.taken_samples[slot] += steps * self.step

    def recent(self, slot: int) -> np.ndarray:
        """Up to ``history`` of the samples taken last, in order."""
        taken = int(self.taken_samples[slot])
        at = np.arange(max(int(self._begun[slot]), taken - self.history), taken) % self.capacity
        return self.samples[slot, at]

    def begin(self, slot: int) -> None:
        """The next step is the first of its call."""
        self._begun[slot] = self.taken_samples[slot]

    def clear(self, slot: int) -> None:
        self.samples[slot] = 0
        self.written_samples[slot] = self.taken_samples[slot] = self._begun[slot] = 0
