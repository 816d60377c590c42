"""The score that a recipe is searched for."""

from __future__ import annotations

from dataclasses import dataclass

from edgeemo.analyze.comparisons import Score

HALF_THE_NOISE = 3.0  # dB


@dataclass(frozen=True)
class Goal:
    """A limit to the loss of macro-F1 (absolute), and to the SQNR of the answers (dB); None asks for nothing."""

    max_f1_drop: float | None
    min_sqnr: float | None

    def or_half_the_noise(self, base: Score) -> Goal:
        """This goal; where nothing is asked for, an SQNR 3 dB above ``base``'s."""
        if self.max_f1_drop is None and self.min_sqnr is None:
            return Goal(None, base.sqnr_db + HALF_THE_NOISE)
        return self

    def __str__(self) -> str:
        words = [] if self.max_f1_drop is None else [f"a drop of macro-F1 of at most {self.max_f1_drop}"]
        words += [] if self.min_sqnr is None else [f"an SQNR of the answers of at least {self.min_sqnr:.1f} dB"]
        return " and ".join(words)

    def reached(self, score: Score) -> bool:
        """Whether ``score`` is good enough. A drop counts as `edgeemo gate` rounds it."""
        dropped = self.max_f1_drop is not None and (score.drop is None or round(score.drop, 4) > self.max_f1_drop)
        return not dropped and (self.min_sqnr is None or score.sqnr_db >= self.min_sqnr)

    def miss(self, score: Score) -> float:
        """A figure that is the smaller the nearer ``score`` is: the drop where that has a limit, else the error."""
        return score.error if self.max_f1_drop is None or score.drop is None else score.drop
