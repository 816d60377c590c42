"""Who may connect, and how often: a bound on connections and on new ones for each address."""

from __future__ import annotations

import collections
import time

from edgeemo_runtime.serve.settings import LimitRules

BURST_S = 2.0  # of ``opens_per_s`` that may come at once
REMEMBERED = 10_000  # addresses


class Doorman:
    """Counts connections by address. ``enter`` and ``leave`` belong together."""

    def __init__(self, limits: LimitRules) -> None:
        self._limits = limits
        self._inside: collections.Counter[str] = collections.Counter()
        self._credit: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()  # credit, and of when
        self.turned_away: collections.Counter[str] = collections.Counter()  # by reason

    def enter(self, address: str, now: float | None = None) -> bool:
        """Whether another connection of ``address`` is let in."""
        now = time.monotonic() if now is None else now
        most = max(1.0, BURST_S * self._limits.opens_per_s)
        credit, then = self._credit.pop(address, (most, now))
        credit = min(most, credit + (now - then) * self._limits.opens_per_s)
        reason = ""
        if self._inside[address] >= self._limits.per_address:
            reason = "too many connections of one address"
        elif credit < 1.0:
            reason = "too many new connections of one address"
        self._credit[address] = (credit if reason else credit - 1.0, now)
        while len(self._credit) > REMEMBERED:
            self._credit.popitem(last=False)
        if reason:
            self.turned_away[reason] += 1
            if not self._inside[address]:
                del self._inside[address]
            return False
        self._inside[address] += 1
        return True

    def leave(self, address: str) -> None:
        self._inside[address] -= 1
        if self._inside[address] <= 0:
            del self._inside[address]
