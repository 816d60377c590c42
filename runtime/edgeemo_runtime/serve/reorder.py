"""Packets in the order they were sent: late ones wait a little for those before them (RFC 3550, A.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

WRAP = 1 << 16
MISORDER = 100  # packets that one may come late
DROPOUT = 3000  # that may be missing before a source counts anew
MOST_WAITING = 64


@dataclass
class Reorder:
    """By 16-bit sequence numbers. ``hold_s``: how long packets wait for one before them."""

    hold_s: float
    received: int = 0
    lost: int = 0  # were not waited for any longer
    late: int = 0  # came when they were not waited for any more
    doubled: int = 0
    restarts: int = 0
    _next: int | None = None
    _waiting: dict[int, tuple[float, object]] = field(default_factory=dict)  # by sequence number: when it came, and it
    _strange: int | None = None  # the number that another source would go on with

    def push(self, number: int, packet: object, now: float) -> list[object]:
        """Packets that can be passed on now, in order."""
        self.received += 1
        if self._next is None:
            self._next = number
        if number == self._next and not self._waiting:  # as a rule
            self._next = (number + 1) % WRAP
            self._strange = None
            return [packet]
        ahead = (number - self._next) % WRAP
        if ahead >= WRAP - MISORDER:
            self.late += 1
            return self.overdue(now)
        if ahead > DROPOUT:
            return self._restart(number, packet, now)
        self._strange = None
        if number in self._waiting:
            self.doubled += 1
            return self.overdue(now)
        self._waiting[number] = now, packet
        return self.overdue(now)

    def _restart(self, number: int, packet: object, now: float) -> list[object]:
        """Two packets in a row that fit nowhere are a source that counts anew."""
        if self._strange != number:
            self._strange = (number + 1) % WRAP
            return self.overdue(now)
        passed = [self._waiting[n][1] for n in self._in_order()]
        self._waiting.clear()
        self._strange, self._next = None, (number + 1) % WRAP
        self.restarts += 1
        return [*passed, packet]

    def _in_order(self) -> list[int]:
        start = self._next or 0
        return sorted(self._waiting, key=lambda n: (n - start) % WRAP)

    def overdue(self, now: float) -> list[object]:
        """Packets that are next, and those that have waited long enough for what is missing."""
        passed = []
        while self._waiting:
            assert self._next is not None
            if self._next not in self._waiting:
                number = self._in_order()[0]
                oldest = min(came for came, _ in self._waiting.values())
                if now - oldest < self.hold_s and len(self._waiting) < MOST_WAITING:
                    break
                self.lost += (number - self._next) % WRAP
                self._next = number
            passed.append(self._waiting.pop(self._next)[1])
            self._next = (self._next + 1) % WRAP
        return passed

    @property
    def waits(self) -> bool:
        """Whether packets wait for one that is missing."""
        return bool(self._waiting)
