"""From probabilities per step to what a caller's emotion is said to be: smoothing, consistency, confidence, handoff.

All streams at once, one row per slot. Each rule can be switched off by itself; a worked example is in each rule's docstring.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError, check_range

NEUTRAL = "neutral"
REASONS = ("", "low confidence", "jumping", "low confidence and jumping")  # of a handoff, by bits: 1 low, 2 jumping


@dataclass(frozen=True)
class DecisionRules:
    """The rules and their numbers. Raises EdgeEmoError for one out of range."""

    alpha: float = 0.3  # weight of the newest step in the moving average; 1 is no smoothing
    consistency: bool = True
    window_steps: int = 5  # 800 ms
    disagreement: float = 0.6  # a label that this share of the window is not counts half
    confidence: bool = True
    least_confidence: float = 0.55  # below, the answer is neutral
    settle: bool = True
    settle_steps: int = 3  # in a row that another label must be the answer before it is said
    handoff: bool = True
    handoff_steps: int = 3  # so many low or jumping steps in a row
    jump_s: float = 0.5  # a label given up sooner than this was a jump

    def __post_init__(self) -> None:
        for name, good in (
            ("alpha must lie in (0, 1]", 0 < self.alpha <= 1),
            ("window_steps must be 1 to 100", 1 <= self.window_steps <= 100),
            ("disagreement must lie in (0, 1]", 0 < self.disagreement <= 1),
            ("least_confidence must lie in [0, 1]", 0 <= self.least_confidence <= 1),
            ("settle_steps must be at least 1", self.settle_steps >= 1),
            ("handoff_steps must be at least 1", self.handoff_steps >= 1),
            ("jump_s must not be negative", self.jump_s >= 0),
        ):
            check_range(self, name, good)


PRESETS = {
    "call-centre": DecisionRules(),
    "in-car": DecisionRules(alpha=0.5),
    "raw": DecisionRules(alpha=1.0, consistency=False, confidence=False, settle=False, handoff=False),
}


@dataclass(frozen=True)
class Decided:
    """What the rules made of a batch of n steps."""

    smoothed: np.ndarray  # (n, labels) float32, the moving average
    probabilities: np.ndarray  # (n, labels) float32, after the consistency rule; sum to 1
    label: np.ndarray  # (n,) int64
    low: np.ndarray  # (n,) bool: below the least confidence
    jumped: np.ndarray  # (n,) bool: the label said changed soon after it had changed
    changed: np.ndarray  # (n,) bool: another label is said than the step before
    handoff: np.ndarray  # (n,) int8: index into REASONS, 0 for none

    def rows(self, rows: np.ndarray) -> Decided:
        return self if len(rows) == len(self.label) else Decided(*(getattr(self, f.name)[rows] for f in fields(self)))


class Decisions:
    """The rules' memory for every slot."""

    def __init__(self, slots: int, labels: tuple[str, ...], rules: DecisionRules, step_s: float) -> None:
        """Raises EdgeEmoError if the confidence rule is on and no label is neutral."""
        if rules.confidence and NEUTRAL not in labels:
            raise EdgeEmoError(f"the confidence rule answers neutral, which is none of {', '.join(labels)}; switch it off")
        self.rules, self.step_s = rules, step_s
        self._neutral = labels.index(NEUTRAL) if NEUTRAL in labels else -1
        self.smoothed = np.zeros((slots, len(labels)), dtype=np.float32)
        self._window = np.full((slots, rules.window_steps), -1, dtype=np.int8)
        self._steps = np.zeros(slots, dtype=np.int64)
        self._answer = np.full(slots, -1, dtype=np.int64)  # of the step before, settled or not
        self._in_row = np.zeros(slots, dtype=np.int64)
        self._label = np.full(slots, -1, dtype=np.int64)
        self._held = np.zeros(slots, dtype=np.int64)  # steps that the label has stood
        self._streak = np.zeros(slots, dtype=np.int64)
        self._why = np.zeros(slots, dtype=np.int8)
        self._handed_off = np.zeros(slots, dtype=bool)

    def __call__(self, slots: np.ndarray, probabilities: np.ndarray) -> Decided:
        """A step of each of ``slots`` (n,), all different; ``probabilities`` (n, labels)."""
        smoothed = self._smooth(slots, probabilities)
        weighed = self._weigh(slots, smoothed) if self.rules.consistency else smoothed
        answer, low = self._doubt(weighed)
        restless = (self._steps[slots] > 0) & (answer != self._answer[slots])
        label = self._settle(slots, answer) if self.rules.settle else answer
        self._answer[slots] = answer
        changed, jumped = self._changes(slots, label)
        handoff = self._hand_off(slots, low, restless) if self.rules.handoff else np.zeros(len(slots), dtype=np.int8)
        self._steps[slots] += 1
        return Decided(smoothed, weighed, label, low, jumped, changed, handoff)

    def _smooth(self, slots: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """s = alpha p + (1 - alpha) s, a stream's first step being its own average.

        alpha 0.5, p(angry) 0.8 then 0.4: s = 0.8, then 0.5 * 0.4 + 0.5 * 0.8 = 0.6.
        """
        weight = np.where(self._steps[slots] == 0, 1.0, self.rules.alpha).astype(np.float32)[:, None]
        smoothed = weight * probabilities + (1.0 - weight) * self.smoothed[slots]
        self.smoothed[slots] = smoothed
        return smoothed

    def _weigh(self, slots: np.ndarray, smoothed: np.ndarray) -> np.ndarray:
        """The top label counts half if at least ``disagreement`` of the window's top labels are another; then sum to 1 again.

        Window sad sad sad angry sad, now angry 0.5, sad 0.4, rest 0.1: four of five (0.8 >= 0.6) disagree, so angry counts 0.25
        and, out of 0.75, sad leads with 0.53.
        """
        top = smoothed.argmax(axis=1)
        window = self._window[slots]
        seen = np.minimum(self._steps[slots], self.rules.window_steps)
        other = ((window >= 0) & (window != top[:, None])).sum(axis=1)
        doubted = (seen > 0) & (other >= self.rules.disagreement * seen)
        weighed = smoothed.copy()
        weighed[np.flatnonzero(doubted), top[doubted]] *= 0.5
        self._window[slots, self._steps[slots] % self.rules.window_steps] = top
        return weighed / weighed.sum(axis=1, keepdims=True)

    def _doubt(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest label, or neutral where it is below ``least_confidence``.

        Angry 0.5, sad 0.3, rest 0.2 with 0.55: neutral, and the step is a low one. Angry 0.56: angry.
        """
        label = probabilities.argmax(axis=1)
        low = probabilities.max(axis=1) < self.rules.least_confidence
        return (np.where(low, self._neutral, label), low) if self.rules.confidence else (label, low)

    def _settle(self, slots: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Another label is said once it has been the answer of ``settle_steps`` steps in a row; until then the old one stands.

        3 steps, answers sad sad angry sad angry angry angry: sad throughout, and angry with the last.
        """
        row = np.where(answer == self._answer[slots], self._in_row[slots] + 1, 1)
        self._in_row[slots] = row
        return np.where((row >= self.rules.settle_steps) | (self._steps[slots] == 0), answer, self._label[slots])

    def _changes(self, slots: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which steps change the label, and which of those do so within ``jump_s`` of the last change.

        160 ms steps, 0.5 s, labels sad sad sad sad angry happy: angry comes after 0.64 s, a change and no jump; happy 0.16 s
        later is a jump. A stream's first label is neither.
        """
        changed = (self._steps[slots] > 0) & (label != self._label[slots])
        jumped = changed & (self._held[slots] * self.step_s < self.rules.jump_s)
        self._held[slots] = np.where(changed | (self._steps[slots] == 0), 1, self._held[slots] + 1)
        self._label[slots] = label
        return changed, jumped

    def _hand_off(self, slots: np.ndarray, low: np.ndarray, restless: np.ndarray) -> np.ndarray:
        """``handoff_steps`` steps in a row that are low, or whose answer (settled or not) is another than the one before: hand
        the call to a person, once in a call, saying which it was.

        Low, fine, low, other, low with 3: nothing after step 3; at step 5 a handoff for "low confidence and jumping"; none after.
        """
        bad = low | restless
        why = low.astype(np.int8) | (restless.astype(np.int8) << 1)
        self._streak[slots] = np.where(bad, self._streak[slots] + 1, 0)
        self._why[slots] = np.where(bad, self._why[slots] | why, 0)
        now = (self._streak[slots] >= self.rules.handoff_steps) & ~self._handed_off[slots]
        self._handed_off[slots] |= now
        return np.where(now, self._why[slots], 0).astype(np.int8)

    def clear(self, slot: int) -> None:
        for array in (self.smoothed, self._steps, self._in_row, self._held, self._streak, self._why, self._handed_off):
            array[slot] = 0
        self._window[slot] = self._answer[slot] = self._label[slot] = -1
