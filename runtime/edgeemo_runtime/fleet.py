"""Which model serves which call: hot swap, canary, and counters by version.

Usually one model serves all. After a swap the old one stays until its last call has ended or moved over; during a canary two
serve side by side.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeemo_runtime.counters import BUDGET_S, ModelCounters
from edgeemo_runtime.decision import Decided
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.model import Model

Split = list[tuple[Model, slice | np.ndarray]]  # models, each with its rows of a batch
CARRY = ("replay", "finish")
# Streams that move with each call of Engine.step, by three steps of replay: in fours they would take twice as long in all, and as
# long as calls are split over two models every batch is two.
CARRIED_PER_STEP = 8


@dataclass
class _Canary:
    model: Model
    share: float


def in_canary(user: str, share: float) -> bool:
    """By the last two digits of an id that ends in digits, of its CRC-32 otherwise: the same for every call of a user.

    share 0.05: caller-1704 is in (04 < 5), caller-1705 is not.
    """
    tail = user[-2:]
    number = int(tail) if tail.isascii() and tail.isdigit() else zlib.crc32(user.encode()) % 100
    return number < 100 * share


def intensities(split: Split, slots: np.ndarray, decided: Decided) -> list[str]:
    """How strong an emotion is, where the label said has that second level, the step is no low one and the model tells.

    Angry with 0.7 and evidence of -0.4: annoyed. Angry with 0.5, or sad: nothing.
    """
    said = [""] * len(slots)
    for model, rows in split:
        if model.intensity is not None:
            label, names, where = model.intensity
            if label not in decided.label.tolist():  # as a rule: what follows is code that the board would fetch from DRAM
                continue
            sure = (decided.label == label) & ~decided.low
            mine = np.arange(len(slots))[rows]
            for i in mine[sure[mine]]:
                said[i] = names[int(model.states[slots[i], where] > 0)]
    return said


def speech_heard(split: Split, slots: np.ndarray, each: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many steps of speech each call has had (n,), by its model or, where that does not count, ``each`` (n,); and how many it
    takes before there is a label (n,)."""
    speech, least = each.astype(np.float64), np.zeros(len(slots))
    for model, rows in split:
        spoken = model.spoken(slots[rows])
        if spoken is not None:
            speech[rows], least[rows] = spoken, model.speech[1]
    return speech, least


class Fleet:
    def __init__(self, model: Model, budget_s: float = BUDGET_S) -> None:
        self.live = model
        self._budget_s = budget_s
        self.canary: _Canary | None = None
        self._counters: dict[str, ModelCounters] = {}
        self._models: list[Model | None] = []
        self._model_of = np.zeros(model.slots, dtype=np.int64)
        self._in_use = np.zeros(model.slots, dtype=bool)
        self._moving: list[int] = []
        self._only: Model | None = model
        self._add(model)

    def _add(self, model: Model) -> int:
        self._counters.setdefault(model.version, ModelCounters(model.labels, self._budget_s))
        free = next((i for i, m in enumerate(self._models) if m is None), None)
        if free is None:
            self._models.append(model)
            return len(self._models) - 1
        self._models[free] = model
        return free

    def _index(self, model: Model) -> int:
        return next(i for i, m in enumerate(self._models) if m is model)

    @property
    def counters(self) -> dict[str, ModelCounters]:
        """By version, everything counted."""
        for counters in self._counters.values():
            counters.settle()
        return self._counters

    def counters_of(self, model: Model) -> ModelCounters:
        """To add to; what was noted may not be counted yet."""
        return self._counters[model.version]

    @property
    def models(self) -> list[Model]:
        return [m for m in self._models if m is not None]

    @property
    def moving(self) -> int:
        """Calls that have not moved over yet."""
        return len(self._moving)

    def assign(self, slot: int, user: str) -> None:
        model = self.canary.model if self.canary is not None and in_canary(user, self.canary.share) else self.live
        self._model_of[slot] = self._index(model)
        self._in_use[slot] = True

    def release(self, slot: int) -> None:
        self._in_use[slot] = False
        if slot in self._moving:
            self._moving.remove(slot)
        self._retire()

    def clear(self, slot: int) -> None:
        for model in self.models:
            model.clear(slot)

    def split(self, slots: np.ndarray) -> Split:
        """The models that serve ``slots``, each with its rows."""
        if self._only is not None:
            return [(self._only, slice(None))] if len(slots) else []
        mine = self._model_of[slots]
        return [(m, np.flatnonzero(mine == i)) for i, m in enumerate(self._models) if m is not None and (mine == i).any()]

    def swap(self, model: Model, carry: str, in_use: list[int]) -> Model:
        if carry not in CARRY:
            raise EdgeEmoError(f"carry must be one of {', '.join(CARRY)}, not {carry!r}")
        self.canary = None
        self._add(model)
        self.live = model
        self._moving = in_use if carry == "replay" else []
        self._retire()
        return model

    def start_canary(self, model: Model, share: float) -> Model:
        if not 0 < share < 1:
            raise EdgeEmoError(f"a canary's share of the users must lie between 0 and 1, not be {share}")
        if self.canary is not None:
            raise EdgeEmoError("a canary is running; end it first")
        self._add(model)
        self.canary = _Canary(model, share)
        self._retire()
        return model

    def end_canary(self, promote: bool, carry: str, in_use: list[int]) -> None:
        if self.canary is None:
            raise EdgeEmoError("no canary is running")
        model, self.canary = self.canary.model, None
        if promote:
            self.live = model
        live = self._index(self.live)
        self._moving = [s for s in in_use if self._model_of[s] != live] if carry == "replay" else []
        self._retire()

    def carry_some(self, replay: Callable[[Model, list[int]], None]) -> None:
        """Moves the next few calls over to the live model."""
        if not self._moving:
            return
        some, self._moving = self._moving[:CARRIED_PER_STEP], self._moving[CARRIED_PER_STEP:]
        replay(self.live, some)
        self._model_of[some] = self._index(self.live)
        self._retire()

    def _retire(self) -> None:
        """Lets go of models that serve no call and will get none."""
        kept = {self._index(self.live), *self._model_of[self._in_use].tolist()}
        if self.canary is not None:
            kept.add(self._index(self.canary.model))
        self._models = [m if i in kept else None for i, m in enumerate(self._models)]
        models = self.models
        self._only = models[0] if len(models) == 1 else None
