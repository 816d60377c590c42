"""Pre- and post-processing of a batch by an artifact's compiled stream functions, for calls of one model.

Ring, offset, rules and the answer's numbers cost numpy some sixty operations, whose code a board fetches from DRAM every time:
the weights of a step push it out of the cache. The artifact's ``intake`` and ``decide`` (compile/stream_functions) do the same
on the same arrays, so that either way may serve a call's next step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeemo_runtime.abi import FLAGS, HANDOFF, LABEL, NUMBERS, RULES, TIMES
from edgeemo_runtime.decision import Decided, Decisions
from edgeemo_runtime.memory import aligned_zeros
from edgeemo_runtime.model import MAX_BATCH, Model

if TYPE_CHECKING:
    from edgeemo_runtime.conditioning import Conditioner
    from edgeemo_runtime.ring import AudioRings


class CompiledRules:
    def __init__(
        self,
        rings: AudioRings,
        conditioner: Conditioner,
        decisions: Decisions,
        begun_at: np.ndarray,
        ids: np.ndarray,
        ready_since: np.ndarray,
        sample_rate: int,
    ) -> None:
        import tvm_ffi

        self._tensor = tvm_ffi.from_dlpack
        step_s, labels = decisions.step_s, decisions.smoothed.shape[1]
        known = {"neutral": decisions.neutral, "step_s": step_s, "step": rings.step}
        values = aligned_zeros((len(RULES),), np.float64)
        values[:] = [known[name] if name in known else getattr(decisions.rules, name) for name in RULES]
        limits = aligned_zeros((2,), np.float64)
        limits[:] = conditioner.rules.max_offset, sample_rate
        self._start = aligned_zeros((MAX_BATCH,), np.float64)
        self._numbers = aligned_zeros((MAX_BATCH, len(NUMBERS)), np.int64)
        self._flags = aligned_zeros((MAX_BATCH, len(FLAGS)), np.uint8)
        self._shares = aligned_zeros((MAX_BATCH, 3, labels), np.float32)
        self._times = aligned_zeros((MAX_BATCH, len(TIMES)), np.float64)
        heard = (rings.taken_samples, rings.samples, conditioner.mean, begun_at, limits)
        known_of = (values, decisions.smoothed, decisions.window, decisions.seen, decisions.memory, ids, rings.taken_samples)
        self._heard = [self._tensor(a) for a in heard]
        self._known = [self._tensor(a) for a in (*known_of, rings.written_samples, ready_since)]

    def serves(self, model: Model, slots: np.ndarray) -> bool:
        """Whether the model brings the functions, and so many calls fit a batch."""
        return model.around is not None and 0 < len(slots) <= MAX_BATCH

    def __call__(self, model: Model, slots: np.ndarray) -> tuple[Decided, np.ndarray, np.ndarray, np.ndarray]:
        """A step of ``slots`` (n,): (decided, this step's probabilities (n, labels), numbers (n, NUMBERS), times (n, TIMES)).
        No later call writes over them. ``ready_since`` of the slots is infinite afterwards."""
        n = len(slots)
        if n not in model.around_calls:
            model.around_calls[n] = self._calls(model, n)
        intake, decide = model.around_calls[n]
        run = model.bound(slots)
        intake()
        run()
        decide()
        numbers, times, shares = self._numbers[:n].copy(), self._times[:n].copy(), self._shares[:n].copy()
        flags = self._flags[:n].copy().view(bool)
        low, jumped, changed, decision = flags.T
        smoothed, weighed = shares[:, 1], shares[:, 2]
        decided = Decided(smoothed, weighed, numbers[:, LABEL], low, jumped, changed, decision, numbers[:, HANDOFF])
        return decided, shares[:, 0], numbers, times

    def _calls(self, model: Model, n: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
        assert model.around is not None
        results = (self._numbers, self._flags, self._shares, self._times)
        slots, audio, answers, start = (self._tensor(a[:n]) for a in (model.batch_slots, model.audio, model.answers, self._start))
        intake, decide = model.around
        speech = self._tensor(model.states), self._tensor(model.speech)
        return (
            functools.partial(intake, slots, *self._heard, audio, start),
            functools.partial(decide, slots, answers, *speech, *self._known, start, *(self._tensor(a[:n]) for a in results)),
        )
