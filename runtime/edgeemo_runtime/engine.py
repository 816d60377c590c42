"""Engine and Stream: many calls through one compiled step, batched.

The engine owns the models, one row per slot, and the rings of audio; a stream is one call's slot. Push audio as it comes, call
``step()``: every stream that has 160 ms ready goes through its network, in batches of up to 16. Nothing on that path loops over
streams in Python.

    engine = Engine("emotion-host.edgeemo", max_streams=80)
    stream = engine.open()
    stream.push(samples)            # float32 at engine.sample_rate, any length up to the backlog
    for result in engine.step():
        print(result.stream, result.end_s, result.label, result.probabilities)

One engine, one thread: calls from any other raise. Two engines share nothing that is written.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeemo_runtime.abi import BAD, END, ODD, SINCE, START, STREAM, WAITING
from edgeemo_runtime.artifact import Artifact
from edgeemo_runtime.compiled_rules import CompiledRules
from edgeemo_runtime.conditioning import AudioRules, Conditioner
from edgeemo_runtime.counters import BUDGET_S, StreamCounters
from edgeemo_runtime.decision import Decided, DecisionRules, Decisions
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.fleet import Fleet, Split, intensities, speech_heard
from edgeemo_runtime.memory import aligned_zeros
from edgeemo_runtime.model import MAX_BATCH, Model, misfit
from edgeemo_runtime.results import StepResults
from edgeemo_runtime.ring import AudioRings
from edgeemo_runtime.schedule import PHASES, quietest_lead
from edgeemo_runtime.source_clock import Placement, SourceClock
from edgeemo_runtime.stream import OverloadError, Stream

OVERLOADS = ("refuse", "drop-oldest")
BACKLOG_HOPS = 4
MAX_STREAMS, MAX_BACKLOG_HOPS = 10_000, 1_000


class Engine:
    """A compiled model and room for ``max_streams`` calls, for the thread that made it."""

    def __init__(
        self,
        artifact: str | Path | Artifact,
        max_streams: int = 64,
        rules: DecisionRules = DecisionRules(),  # noqa: B008 - frozen
        audio: AudioRules = AudioRules(),  # noqa: B008
        overload: str = OVERLOADS[0],
        backlog_hops: int = BACKLOG_HOPS,
        spread_phases: bool = False,
        clock: Callable[[], float] = time.monotonic,
        budget_s: float = BUDGET_S,
    ) -> None:
        """``overload``: what happens to audio beyond ``backlog_hops`` waiting steps: "refuse" raises, "drop-oldest" drops and
        counts whole hops. Streams beyond ``max_streams`` are always refused. ``budget_s``: answers that come later after their
        hop's last sample count as late.

        Raises EdgeEmoError if the artifact does not load or is not a streaming model, or an argument is out of range. The
        artifact's code runs in this process: where it comes from somebody else, `edgeemo-run install` tries it in another first.
        """
        if not 1 <= max_streams <= MAX_STREAMS or not 1 <= backlog_hops <= MAX_BACKLOG_HOPS:
            raise EdgeEmoError(
                f"max_streams must be 1 to {MAX_STREAMS} and backlog_hops 1 to {MAX_BACKLOG_HOPS}, not {max_streams} and "
                f"{backlog_hops}"
            )
        if overload not in OVERLOADS:
            raise EdgeEmoError(f"overload must be one of {', '.join(OVERLOADS)}, not {overload!r}")
        model = Model(artifact, max_streams)
        self.sample_rate, self.samples_per_step, self.labels = model.sample_rate, model.samples_per_step, model.labels
        self.max_streams, self.overload, self.clock = max_streams, overload, clock
        self.step_s = self.samples_per_step / self.sample_rate
        self.fleet = Fleet(model, budget_s)
        self.counters = StreamCounters()
        self.audio_rules = audio
        try:
            self.rings = AudioRings(max_streams, self.samples_per_step, model.ring_samples, backlog_hops)
        except MemoryError as error:
            raise EdgeEmoError(f"rings of {backlog_hops} hops for {max_streams} streams do not fit this machine") from error
        self._source_clock = SourceClock(max_streams, self.rings, audio, self.sample_rate, self.counters)
        self._decisions = Decisions(max_streams, self.labels, rules, self.step_s)
        self._conditioner = Conditioner(max_streams, self.samples_per_step, audio)
        self.spread_phases = spread_phases
        self._phase = np.full(max_streams, -1, dtype=np.int64)
        self._ready_since = aligned_zeros((max_streams,), np.float64)
        self._ready_since[:] = np.inf
        self._ids = aligned_zeros((max_streams,), np.int64)
        self._ids[:] = -1
        kept = (self._source_clock.begun_at, self._ids, self._ready_since)
        self._compiled = CompiledRules(self.rings, self._conditioner, self._decisions, *kept, self.sample_rate)
        self._free = list(range(max_streams - 1, -1, -1))
        self._next_id = 0
        self._thread = threading.get_ident()
        self._warm_up()

    @property
    def open_streams(self) -> int:
        return self.max_streams - len(self._free)

    @property
    def model(self) -> Model:
        """The model that new calls get."""
        return self.fleet.live

    def open(self, user: str = "") -> Stream:
        """A new stream. ``user``: whose call, for a canary (fleet.py). Raises OverloadError when all slots are taken."""
        self._check_thread()
        if not self._free:
            self.counters.refused += 1
            raise OverloadError(f"all {self.max_streams} streams are in use; close one, or make the engine with more")
        slot = self._free.pop()
        self._ids[slot] = self._next_id
        self._next_id += 1
        self.counters.opened += 1
        self.fleet.assign(slot, user)
        if self.spread_phases:
            self._lead_in(slot)
        return Stream(self, slot, self._next_id - 1)

    def ready(self) -> tuple[np.ndarray, np.ndarray]:
        """Slots with a whole step waiting, and since when (engine clock); longest waiting first."""
        slots = self.rings.ready()
        since = self._ready_since[slots]
        order = np.argsort(since, kind="stable")
        return slots[order], since[order]

    def step(self, slots: np.ndarray | None = None) -> StepResults:
        """Runs one step of each of ``slots`` (as ready() gives them; default: all that are), batched. Call again until it returns
        none."""
        self._check_thread()
        ready = self.rings.ready() if slots is None else slots
        self.fleet.carry_some(self._replay)
        if self._source_clock.breaks:
            self._pass_breaks(ready)
        split = self.fleet.split(ready)
        if len(split) == 1 and not self.audio_rules.skip_silence and self._compiled.serves(split[0][0], ready):
            return self._step_compiled(split, ready)
        return self._step_numpy(split, ready)

    def _step_compiled(self, split: Split, slots: np.ndarray) -> StepResults:
        """A step whose pre- and post-processing is compiled, where one model serves all and no silence is skipped."""
        ((model, _),) = split
        decided, probabilities, numbers, times = self._compiled(model, slots)
        done = self.clock()
        waited_s = done - times[:, SINCE]
        counters = self.fleet.counters_of(model)
        counters.batches[len(slots)] += 1
        counters.note(decided, waited_s)
        odd = numbers[:, ODD]
        if np.count_nonzero(odd):
            counters.errors += int(np.count_nonzero(odd & BAD))
            self._ready_since[slots[odd & WAITING > 0]] = done
        versions = [model.version] * len(slots)
        times_s = times[:, START], times[:, END], waited_s
        return self._results(split, slots, numbers[:, STREAM], times_s, probabilities, decided, versions)

    def _step_numpy(self, split: Split, slots: np.ndarray) -> StepResults:
        """A step of any models, its pre- and post-processing in numpy: the reference of the compiled one."""
        start_s = (self._source_clock.begun_at[slots] + self.rings.taken(slots)) / self.sample_rate
        if len(split) == 1:
            versions = [split[0][0].version] * len(slots)
            probabilities = self._run_all(split[0][0], slots)
        else:
            probabilities, versions = self._run_split(split, slots)
        heard = speech_heard(split, slots, self._decisions.steps(slots) + 1)
        decided = self._decisions(slots, probabilities, *heard)
        done = self.clock()
        waited_s = done - self._ready_since[slots]
        for model, rows in split:
            self.fleet.counters_of(model).note(decided.rows(rows), waited_s[rows])
        # A step that is still waiting has been since its last sample came; that is not kept, so it counts from now.
        waiting = self.rings.waiting_steps(slots)
        self._ready_since[slots] = np.where(waiting > 0, done, np.inf) if np.count_nonzero(waiting) else np.inf
        times_s = start_s, start_s + self.step_s, waited_s
        return self._results(split, slots, self._ids[slots], times_s, probabilities, decided, versions)

    def _results(
        self, split: Split, slots: np.ndarray, ids: np.ndarray, times_s: tuple[np.ndarray, np.ndarray, np.ndarray],
        probabilities: np.ndarray, decided: Decided, versions: list[str],
    ) -> StepResults:  # fmt: skip
        said = intensities(split, slots, decided) if self._decisions.rules.intensity else [""] * len(slots)
        start_s, end_s, waited_s = times_s
        shares = probabilities, decided.smoothed, decided.label
        return StepResults(ids, start_s, end_s, *shares, said, decided.handoff, waited_s, versions, self.labels)

    def _run_all(self, model: Model, slots: np.ndarray) -> np.ndarray:
        """Probabilities (n, labels) of any number of streams of one model, in batches."""
        if len(slots) <= MAX_BATCH:
            return self._run(model, slots).copy()
        parts = [self._run(model, slots[i : i + MAX_BATCH]).copy() for i in range(0, len(slots), MAX_BATCH)]
        return np.concatenate(parts)

    def _run_split(self, split: Split, slots: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """While several models serve: probabilities, and the version that each row is from."""
        probabilities = np.empty((len(slots), len(self.labels)), dtype=np.float32)
        versions = np.empty(len(slots), dtype=object)
        for model, rows in split:
            probabilities[rows] = self._run_all(model, slots[rows])
            versions[rows] = model.version
        return probabilities, versions.tolist()

    def _run(self, model: Model, slots: np.ndarray) -> np.ndarray:
        """One batch: conditioned audio through the network, but for streams whose silence is skipped."""
        n = len(slots)
        audio = model.audio[:n]
        self.rings.take(slots, audio)
        self._conditioner(slots, audio)
        quiet = self._conditioner.skipped(slots, audio)
        counters = self.fleet.counters_of(model)
        if quiet is None or not quiet.any():
            counters.batches[n] += 1
            return self._checked(model, model.run(slots))
        answer = self._decisions.standing(slots)
        loud = np.flatnonzero(~quiet)
        self.counters.skipped_steps += n - len(loud)
        if len(loud):
            model.audio[: len(loud)] = audio[loud]
            counters.batches[len(loud)] += 1
            answer[loud] = self._checked(model, model.run(slots[loud]))
        return answer

    def _checked(self, model: Model, answer: np.ndarray) -> np.ndarray:
        """Answers that are no probabilities become uniform and are counted: one bad row must not poison a call's average."""
        total = float(answer.sum())
        if math.isfinite(total):
            return answer
        bad = ~np.isfinite(answer).all(axis=1)
        self.fleet.counters_of(model).errors += int(bad.sum())
        return np.where(bad[:, None], np.float32(1.0 / answer.shape[1]), answer)

    # -- models ----------------------------------------------------------------------------------------------------------
    def swap(self, artifact: str | Path | Artifact, carry: str = "replay") -> Model:
        """From now on new calls get this model. ``carry``: running calls "finish" on theirs, or move over by "replay" of the
        audio in their ring, a few with every step so that none waits for all. Smoothing is kept either way.

        Raises EdgeEmoError and changes nothing if the model does not load, answers nonsense, or does not fit these calls.
        """
        self._check_thread()
        return self.fleet.swap(self._fitting(artifact), carry, self._slots_in_use())

    def start_canary(self, artifact: str | Path | Artifact, share: float) -> Model:
        """New calls of a ``share`` of the users, by the tail of their id, get this model; see fleet.py. Raises as swap does."""
        self._check_thread()
        return self.fleet.start_canary(self._fitting(artifact), share)

    def end_canary(self, promote: bool, carry: str = "replay") -> None:
        """The canary becomes the model of all, or its calls go back."""
        self._check_thread()
        self.fleet.end_canary(promote, carry, self._slots_in_use())

    def _fitting(self, artifact: str | Path | Artifact) -> Model:
        model = Model(artifact, self.max_streams)
        for name in ("sample_rate", "samples_per_step", "ring_samples", "labels"):
            new, old = getattr(model, name), getattr(self.model, name)
            if new != old:
                raise EdgeEmoError(
                    f"{model.artifact.path}: its {name} is {new}, that of the running model {old}; restart with it"
                )
        model.warm_up()
        return model

    def _replay(self, model: Model, slots: list[int]) -> None:
        """Builds the states of ``slots`` in ``model`` from the audio in their rings: whole steps, oldest first."""
        size = self.samples_per_step
        model.clear(slots)
        rings = [self.rings.recent(slot) for slot in slots]
        for back in range(max(len(r) // size for r in rings), 0, -1):
            rows = np.array([i for i, r in enumerate(rings) if len(r) >= back * size])
            for i, row in enumerate(rows):
                end = len(rings[row]) - (back - 1) * size
                model.audio[i] = rings[row][end - size : end]
            chosen = np.array(slots)[rows]
            self._conditioner(chosen, model.audio[: len(rows)], learn=False)
            model.run(chosen)

    def _slots_in_use(self) -> list[int]:
        return np.flatnonzero(self._ids >= 0).tolist()

    def _lead_in(self, slot: int) -> None:
        phase = self.clock() % self.step_s / self.step_s
        lead = quietest_lead(np.bincount(self._phase[self._phase >= 0], minlength=PHASES), phase)
        self._phase[slot] = (int(phase * PHASES) - lead) % PHASES
        samples = lead * self.samples_per_step // PHASES
        self.rings.push(slot, np.zeros(samples, dtype=np.float32))
        self._source_clock.lead_in(slot, samples)

    # -- slots and audio -------------------------------------------------------------------------------------------------
    def push(self, slot: int, samples: np.ndarray, at: object | None, came: float | None) -> None:
        """Stream.push, once its arguments are sound."""
        self._check_thread()
        placement = Placement(samples) if at is None else self._source_clock.place(slot, samples, at)
        if placement.length > self.rings.room(slot):
            self._make_room(slot, placement)
        self._source_clock.push(slot, placement, at)
        if self._ready_since[slot] == np.inf and self.rings.waiting(slot) >= self.samples_per_step:
            self._ready_since[slot] = self.clock() if came is None else came

    def _make_room(self, slot: int, placement: Placement) -> None:
        size, room = self.samples_per_step, self.rings.room(slot)
        if self.overload == "refuse":
            raise OverloadError(
                f"stream {self._ids[slot]}: {placement.length} samples do not fit, {room} do; step() oftener, push less at once, "
                'or make the engine with overload="drop-oldest"'
            )
        excess = -(-(placement.length - room) // size)
        waiting = min(excess, self.rings.waiting(slot) // size)
        self.rings.drop(slot, waiting)
        self.counters.dropped_hops += excess
        if excess > waiting:  # what is pushed is alone too long
            ahead = (excess - waiting) * size
            placement.cut(ahead)
            if placement.at_break is None:
                self._source_clock.skip(slot, ahead)

    def _pass_breaks(self, slots: np.ndarray) -> None:
        """Before a step: calls whose source began anew, or was silent for long, begin anew with it."""
        for slot in [s for s in self._source_clock.breaks if s in slots]:
            if self._source_clock.reached(slot):
                self._forget_call(slot)
                self.rings.begin(slot)

    def _forget_call(self, slot: int) -> None:
        """Clears what was learned from a slot's audio."""
        self.fleet.clear(slot)
        self._decisions.clear(slot)
        self._conditioner.clear(slot)

    def _forget(self, slot: int) -> None:
        """Everything a slot knows of its audio."""
        self._forget_call(slot)
        self.rings.clear(slot)
        self._source_clock.clear(slot)
        self._ready_since[slot] = np.inf

    def release(self, slot: int) -> None:
        """Stream.close: the slot is anybody's again."""
        self._check_thread()
        self._forget(slot)
        self.fleet.release(slot)
        self._phase[slot] = self._ids[slot] = -1
        self._free.append(slot)

    def _warm_up(self) -> None:
        """A step of silence in slot 0, all of whose code must take what the manifest says; then nothing of it is left."""
        self.model.warm_up(1)
        if self._compiled.serves(self.model, np.zeros(1)):
            try:
                self._compiled(self.model, np.zeros(1, dtype=np.int64))
            except (RuntimeError, ValueError, TypeError) as error:
                raise misfit(self.model.artifact, error) from error
        self._forget(0)

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise EdgeEmoError("an engine belongs to the thread that made it; make one engine per thread")
