"""From probabilities per step to what a caller's emotion is said to be: smoothing, consistency, confidence, handoff.

Before enough speech was heard a call is listened to: it has no label, and no rule counts its steps. From then on every step is
averaged and weighed. What a *sure* step says is said at once, and stands while steps are not sure, but only until ``decision_s``
of speech went by without a sure one: that is a *low decision*, and the call is neutral. Until the first decision it is listened
to. A sure step is a decision where it says something else, or ``decision_s`` of speech after the one before. Settling and handoff
are rules of decisions. A pause is no speech: it makes no low decision.

All streams at once, one row per slot. Each rule can be switched off by itself; a worked example is in each rule's docstring.
An artifact brings the same rules compiled (compiled_rules.py), which serve a board as a rule: a change here is one there, and
the tests hold both to the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError, check_range
from edgeemo_runtime.memory import aligned_zeros

NEUTRAL = "neutral"
REASONS = ("", "low confidence", "jumping", "low confidence and jumping")  # of a handoff, by bits: 1 low, 2 jumping

STREAK = len(REASONS)
SPEECH_UNIT = 1000  # of a step of speech, which MEMORY holds as integers
MIN_DOUBT = 1e-9  # where no step was yet, nothing is doubted
LISTENING = -1  # in the place of a label
# Of a slot: steps since it was listened to; the answer of the decision before, settled or not, and of how many in a row; the
# label said, and the step in which it was first; STREAK times the bad decisions in a row, and why, by REASONS' bits; whether
# the call was handed off; whether the decision before was a low one; and, in steps / SPEECH_UNIT, how much speech the model had
# counted by the step before, and how much of it came after that decision, and after the last sure step (or low decision).
MEMORY = ("steps", "answer", "in_row", "label", "since", "streak", "handed_off", "low", "counted", "decided", "unsure")


@dataclass(frozen=True)
class DecisionRules:
    """The rules and their numbers. Raises EdgeEmoError for one out of range."""

    alpha: float = 0.3  # weight of the newest step in the moving average; 1 is no smoothing
    consistency: bool = True
    window_steps: int = 5  # 800 ms
    disagreement: float = 0.6  # a label that this share of the window is not counts half
    confidence: bool = True
    min_confidence: float = 0.55  # below, the answer is neutral
    decision_s: float = 1.5  # seconds of speech without a sure step until neutral, and between decisions for the same label
    settle: bool = True
    settle_decisions: int = 1  # in a row that another label must be the answer of before it is said, each decision_s apart
    handoff: bool = True
    handoff_decisions: int = 3  # so many low or jumping ones, and none between them that is sure of the same as the one before
    intensity: bool = True  # a confident label's second level, where the model has one
    jump_s: float = 0.5  # a label given up sooner than this was a jump

    def __post_init__(self) -> None:
        for name, good in (
            ("alpha must lie in (0, 1]", 0 < self.alpha <= 1),
            ("window_steps must be 1 to 100", 1 <= self.window_steps <= 100),
            ("disagreement must lie in (0, 1]", 0 < self.disagreement <= 1),
            ("min_confidence must lie in [0, 1]", 0 <= self.min_confidence <= 1),
            ("decision_s must be 0 or lie in 0.01..3600", self.decision_s == 0 or 0.01 <= self.decision_s <= 3600),
            ("settle_decisions must be at least 1", self.settle_decisions >= 1),
            ("handoff_decisions must be at least 1", self.handoff_decisions >= 1),
            ("jump_s must not be negative", self.jump_s >= 0),
        ):
            check_range(self, name, good)


PRESETS = {
    "call-centre": DecisionRules(),
    "in-car": DecisionRules(alpha=0.5, decision_s=1.0),
    "raw": DecisionRules(alpha=1.0, consistency=False, confidence=False, decision_s=0.0, settle=False, handoff=False),
}


@dataclass(slots=True)
class Decided:
    """Result of the rules on a batch of n steps."""

    smoothed: np.ndarray  # (n, labels) float32, the moving average
    probabilities: np.ndarray  # (n, labels) float32, after the consistency rule; sum to 1
    label: np.ndarray  # (n,) int64, LISTENING where there is none yet
    low: np.ndarray  # (n,) bool: the call's last decision was a low one
    jumped: np.ndarray  # (n,) bool: the label said changed soon after it had changed
    changed: np.ndarray  # (n,) bool: another label is said than the step before
    decision: np.ndarray  # (n,) bool: this step is a decision
    handoff: np.ndarray  # (n,) int64: index into REASONS, 0 for none

    def rows(self, rows: slice | np.ndarray) -> Decided:
        return self if isinstance(rows, slice) else Decided(*(getattr(self, f.name)[rows] for f in fields(self)))


class Decisions:
    """The rules' memory for every slot. A call is a few dozen numpy operations whatever the number of streams: on the board an
    operation costs as much as a hundred multiply-accumulates do in the network's kernels, so what is rare is only computed when
    it is there."""

    def __init__(self, slots: int, labels: tuple[str, ...], rules: DecisionRules, step_s: float) -> None:
        """Raises EdgeEmoError if the confidence rule is on and no label is neutral."""
        if rules.confidence and NEUTRAL not in labels:
            raise EdgeEmoError(f"the confidence rule answers neutral, which is none of {', '.join(labels)}; switch it off")
        self.rules, self.step_s = rules, step_s
        self.neutral = labels.index(NEUTRAL) if NEUTRAL in labels else -1
        self._nothing = len(labels)  # stands in the window where no step was yet
        self.smoothed = aligned_zeros((slots, len(labels)), np.float32)
        self.window = aligned_zeros((slots, rules.window_steps), np.int64)
        self.seen = aligned_zeros((slots, len(labels) + 1), np.int64)  # how often each label stands in the window
        self.memory = aligned_zeros((slots, len(MEMORY)), np.int64)
        columns = (self.memory[:, i] for i in range(len(MEMORY)))
        self._steps, self._answer, self._in_row, self._label, self._since, self._streak, self._handed_off, *rest = columns
        self._low, self._counted, self._decided, self._unsure = rest
        self._none = np.zeros(slots, dtype=np.int64)
        for slot in range(slots):
            self.clear(slot)

    def __call__(
        self, slots: np.ndarray, probabilities: np.ndarray, speech: np.ndarray | None = None, least: np.ndarray | float = 0.0
    ) -> Decided:
        """A step of each of ``slots`` (n,), all different; ``probabilities`` (n, labels). ``speech`` (n,): how many steps of
        speech each call has had, by its model, each step one where that does not tell; below ``least``, (n,) or one for all, of
        it a call that has no label yet is listened to."""
        steps = self._steps[slots]
        speech = steps + 1.0 if speech is None else speech.astype(np.float64)
        listening = (steps == 0) & (speech < least)
        if not np.count_nonzero(listening):
            return self._answered(slots, probabilities, speech)
        heard, n = np.flatnonzero(~listening), len(slots)
        label, handoff = np.full(n, LISTENING, dtype=np.int64), np.zeros(n, dtype=np.int64)
        low, jumped, changed, decision = np.zeros((4, n), dtype=bool)
        all_ = Decided(probabilities.copy(), probabilities.copy(), label, low, jumped, changed, decision, handoff)
        if len(heard):
            found = self._answered(slots[heard], probabilities[heard], speech[heard])
            for f in fields(all_):
                getattr(all_, f.name)[heard] = getattr(found, f.name)
        return all_

    def _answered(self, slots: np.ndarray, probabilities: np.ndarray, speech: np.ndarray) -> Decided:
        rules, steps = self.rules, self._steps[slots]
        begun = steps > 0
        smoothed = self._smooth(slots, begun, probabilities)
        weighed, top = self._weigh(slots, steps, smoothed) if rules.consistency else (smoothed, smoothed.argmax(axis=1))
        low = np.maximum.reduce(weighed, axis=1) < rules.min_confidence
        answer = np.where(low, self.neutral, top) if rules.confidence else top
        due = self._due(slots, begun, speech, low, answer)
        self._steps[slots] = steps + 1
        none, n = self._none, len(slots)
        chosen = np.flatnonzero(due)
        if len(chosen) == n:
            label, low, jumped, changed, handoff = self._decide(slots, steps, answer, low)
            return Decided(smoothed, weighed, label, low, jumped, changed, due, handoff)
        label, doubted, handoff = self._label[slots], self._low[slots] > 0, none[:n].copy()
        jumped, changed = none[:n] > 0, none[:n] > 0
        if len(chosen):
            some = self._decide(slots[chosen], steps[chosen], answer[chosen], low[chosen])
            for whole, part in zip((label, doubted, jumped, changed, handoff), some, strict=True):
                whole[chosen] = part
        return Decided(smoothed, weighed, label, doubted, jumped, changed, due, handoff)

    def _due(self, slots: np.ndarray, begun: np.ndarray, speech: np.ndarray, low: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Which steps are decisions: sure ones of another answer than the decision before, or ``decision_s`` of speech after it,
        and low ones ``decision_s`` of speech after the last that was sure.

        0.5 s, 160 ms steps, all of them speech; sad 0.5, sad 0.6, sad 0.7, then angry 0.5 five times: the second step is the
        first decision (until then there is no label), nothing changes at the third, sad stands until 0.64 s later the last
        but one is a low decision, and the last waits again.
        """
        counted, wanted = (speech * SPEECH_UNIT).astype(np.int64), self.rules.decision_s * SPEECH_UNIT
        # A step is one of speech at most: a model that takes a call over may count from anywhere.
        more = np.clip(counted - self._counted[slots], 0, SPEECH_UNIT) * begun
        unsure, decided = self._unsure[slots] + more, self._decided[slots] + more
        waiting = low & (unsure * self.step_s < wanted) & self.rules.confidence
        other = (answer != self._answer[slots]) | ((low != (self._low[slots] > 0)) & self.rules.confidence)
        due = ~waiting & (other | (decided * self.step_s >= wanted))
        self._counted[slots], self._unsure[slots], self._decided[slots] = counted, unsure * waiting, decided * ~due
        return due

    def _decide(self, slots: np.ndarray, steps: np.ndarray, answer: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, ...]:
        """A decision of each of ``slots``: label, low, jumped, changed, handoff.

        Its answer is the likeliest label, or neutral where that is below ``min_confidence``: angry 0.5, sad 0.3, rest 0.2 with
        0.55 is neutral and a low decision; angry 0.56 is angry.
        """
        rules, before = self.rules, self._answer[slots]
        begun = before >= 0
        label = self._settle(slots, begun, answer, before) if rules.settle else answer
        changed, jumped = self._changes(slots, steps, begun, label)
        both_sure = begun & ~low & (self._low[slots] == 0)
        same = answer == before
        handoff = self._hand_off(slots, low, both_sure & ~same, both_sure & same) if rules.handoff else self._none[: len(slots)]
        self._answer[slots], self._label[slots], self._low[slots] = answer, label, low
        return label, low, jumped, changed, handoff

    def _smooth(self, slots: np.ndarray, begun: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """s = alpha p + (1 - alpha) s, a stream's first step being its own average.

        alpha 0.5, p(angry) 0.8 then 0.4: s = 0.8, then 0.5 * 0.4 + 0.5 * 0.8 = 0.6.
        """
        if self.rules.alpha == 1.0:
            smoothed = probabilities
        else:
            smoothed = self.smoothed[slots]
            smoothed += np.float32(self.rules.alpha) * (probabilities - smoothed)
            if np.count_nonzero(begun) < len(begun):
                smoothed[~begun] = probabilities[~begun]
        self.smoothed[slots] = smoothed
        return smoothed

    def _weigh(self, slots: np.ndarray, steps: np.ndarray, smoothed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The top label counts half if at least ``disagreement`` of the window's top labels are another; then sum to 1 again.

        Window sad sad sad angry sad, now angry 0.5, sad 0.4, rest 0.1: four of five (0.8 >= 0.6) disagree, so angry counts 0.25
        and, out of 0.75, sad leads with 0.53. Returns the probabilities and the label that now leads.
        """
        top = smoothed.argmax(axis=1)
        in_window = np.minimum(steps, self.rules.window_steps)
        doubted = (in_window - self.seen[slots, top]) >= np.maximum(self.rules.disagreement * in_window, MIN_DOUBT)
        place = steps % self.rules.window_steps
        self.seen[slots, self.window[slots, place]] -= 1
        self.seen[slots, top] += 1
        self.window[slots, place] = top
        if not np.count_nonzero(doubted):
            return smoothed, top
        rows = np.flatnonzero(doubted)  # the others are left alone to the bit, whoever is in the batch
        halved = smoothed[rows]
        halved[np.arange(len(rows)), top[rows]] *= 0.5
        halved /= halved.sum(axis=1, keepdims=True)
        weighed = smoothed.copy()
        weighed[rows] = halved
        top[rows] = halved.argmax(axis=1)
        return weighed, top

    def _settle(self, slots: np.ndarray, begun: np.ndarray, answer: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Another label is said once it has been the answer of ``settle_decisions`` in a row; until then the old one stands.

        3 decisions, answers sad sad angry sad angry angry angry: sad throughout, and angry with the last.
        """
        in_row = self._in_row[slots] * (answer == before) + 1
        self._in_row[slots] = in_row
        return np.where((in_row >= self.rules.settle_decisions) | ~begun, answer, self._label[slots])

    def _changes(
        self, slots: np.ndarray, steps: np.ndarray, begun: np.ndarray, label: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which decisions change the label, and which of those do so within ``jump_s`` of the last change.

        160 ms steps, 0.5 s, labels sad sad sad sad angry happy: angry comes after 0.64 s, a change and no jump; happy 0.16 s
        later is a jump. A stream's first label is neither.
        """
        other = label != self._label[slots]
        if not np.count_nonzero(other):
            return other, other
        changed = begun & other
        jumped = changed & ((steps - self._since[slots]) * self.step_s < self.rules.jump_s)
        self._since[slots[other]] = steps[other]
        return changed, jumped

    def _hand_off(self, slots: np.ndarray, low: np.ndarray, restless: np.ndarray, agreed: np.ndarray) -> np.ndarray:
        """``handoff_decisions`` that are low, or sure of another answer (settled or not) than a sure one before, and none between
        them that is sure of the same: hand the call to a person, once in a call, saying which it was.

        With 3: sad, angry, low, happy, low hands over at the last one for "low confidence and jumping" (angry is another answer;
        happy is the first after a low one, which says nothing for or against it). Sad, angry, angry, low, low, low: at the last
        for "low confidence". None after.
        """
        bad = low | restless
        code = np.where(bad, (self._streak[slots] + STREAK) | low | (restless << 1), self._streak[slots] * ~agreed)
        self._streak[slots] = code
        reached = bad & (code >= STREAK * self.rules.handoff_decisions)
        if np.count_nonzero(reached):
            reached &= self._handed_off[slots] == 0
            self._handed_off[slots[reached]] = 1
            return np.where(reached, code % STREAK, 0)
        return self._none[: len(slots)]

    def steps(self, slots: np.ndarray) -> np.ndarray:
        """Steps of each call since it was listened to (n,)."""
        return self._steps[slots]

    def standing(self, slots: np.ndarray) -> np.ndarray:
        """The averages as they are (n, labels), float32; uniform where no step was averaged yet. A copy."""
        found = self.smoothed[slots]
        found[self._steps[slots] == 0] = 1.0 / found.shape[1]
        return found

    def clear(self, slot: int) -> None:
        for array in (self.smoothed, self.seen, self.memory):
            array[slot] = 0
        self.window[slot] = self._nothing
        self._answer[slot] = self._label[slot] = -1
