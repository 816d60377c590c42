"""A model that is to be served next, on its way into a live process: read a block at a time, checked and tried in a child
process.

Each ``advance`` takes a millisecond or two, so calls are answered in between. What serves is not touched until all of it is done.
"""

from __future__ import annotations

import time
from pathlib import Path

from edgeemo_runtime.artifact import Artifact
from edgeemo_runtime.members import Reading, reading_members
from edgeemo_runtime.probe import GENTLE, Probe
from edgeemo_runtime.trust import Trust

ADVANCE_S = 0.001


class Arrival:
    def __init__(self, path: Path, trust: Trust) -> None:
        self._trust = trust
        self._reading: Reading | None = reading_members(path)
        self._probe: Probe | None = None
        self.began = time.monotonic()

    def advance(self) -> Artifact | None:
        """Does the next little; the artifact once it may be loaded. Raises EdgeEmoError if it may not."""
        if self._probe is not None:
            return self._probe.poll()
        assert self._reading is not None
        ends = time.perf_counter() + ADVANCE_S
        try:
            while time.perf_counter() < ends:
                next(self._reading)
        except StopIteration as whole:
            self._probe, self._reading = Probe(whole.value, self._trust, nice=GENTLE), None
        return None

    def close(self) -> None:
        """Gives up."""
        if self._reading is not None:
            self._reading.close()
        if self._probe is not None:
            self._probe.close()
