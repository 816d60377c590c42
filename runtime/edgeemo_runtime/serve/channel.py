"""One channel of audio on its way to an engine, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeemo_runtime.serve.rings import SlotWriter


@dataclass(slots=True)
class Step:
    """An answer for one channel: seconds of its call, probabilities by label index, and the engine's own delay. ``label`` is
    decision.LISTENING (-1) until the call's first decision."""

    start_s: float
    end_s: float
    waited_s: float
    label: int
    handoff: int
    intensity: str
    probabilities: list[float]
    smoothed: list[float]
    model: str


class Channel:
    """``step`` and ``closed`` are called with what comes back. Its engine may change."""

    def __init__(
        self,
        slot: int,
        generation: int,
        writer: SlotWriter,
        user: str,
        step: Callable[[Step], None],
        closed: Callable[[str, int], None],
    ) -> None:
        self.slot, self.generation, self.writer, self.user = slot, generation, writer, user
        self.step, self.closed = step, closed
        self.engine: Any = None  # engine_process.EngineProcess, which sees this module
        self.answered_s = 0.0
        self.deaths = 0
        self.moved_at: float | None = None  # since when it waits for an answer of its next engine
