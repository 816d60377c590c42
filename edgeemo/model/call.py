"""Common parts of CosyVoice-Tiny and CosyVoice-nano: a learnable filterbank before, what a call's answers become behind."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from edgeemo.model.config import LABELS, CallConfig
from edgeemo.model.frontend import FilterbankFrontend
from edgeemo.model.layers import MASKED
from edgeemo.model.streaming import StreamingModel

MOST_SPOKEN = 2.0**17  # steps, 5.8 hours: float32 then still counts in 64ths of a step


class CallModel(StreamingModel):
    """Hears a call step by step: filterbank, ``logits``, probabilities that are the surer the more speech there was."""

    config: CallConfig

    def __init__(self, config: CallConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = FilterbankFrontend(config)

    def state_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        c = self.config
        spec: dict[str, tuple[tuple[int, ...], str]] = {
            "pcm": ((self.frontend.history,), "shift"),
            "level": ((2,), "replace"),
            "spoken": ((1,), "replace"),
            "steps": ((1,), "replace"),
            "frames": ((c.frames_lookback, c.bands), "shift"),
        }
        spec |= self.own_states()
        if c.intensity:
            spec["intensity"] = ((1,), "replace")
        return spec

    @abstractmethod
    def own_states(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """States of everything behind the filterbank's frames."""

    @property
    @abstractmethod
    def classifier(self) -> nn.Linear:
        """Head that gives the logits, of labels and, where there is that head, of a strong anger."""

    @abstractmethod
    def sureness(self, spoken: Tensor) -> Tensor:
        """Factor of the logits, from how many steps of speech the call has had: any shape, the same shape."""

    @abstractmethod
    def logits(self, features: Tensor, energy: Tensor, state: dict[str, Tensor], steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, S, classes) of features (B, frames, bands) and the steps' energy (B, S), followed by that of a strong anger
        where the model has that head; and the states of everything behind the front end."""

    def features(self, pcm: Tensor, state: dict[str, Tensor], steps: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Filterbank features of the step(s) (B, frames, bands), their energy (B, S), how many steps of speech the call has had
        (B, S), and the states of the front end."""
        samples = torch.cat([state["pcm"], pcm], dim=1)
        features, level, loudness, energy = self.frontend(samples, state["level"], steps)
        spoken = self._spoken(state["spoken"], loudness, steps)
        after = {"pcm": samples[:, -self.frontend.history :], "level": level, "spoken": spoken[:, -1:]}
        return features, energy, spoken, after

    def forward(self, pcm: Tensor, state: dict[str, Tensor], steps: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        answers, _, after = self.answers(pcm, state, steps)
        return answers, after

    def answers(self, pcm: Tensor, state: dict[str, Tensor], steps: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Probabilities (B, S, 7), how many steps of speech the call has had (B, S), and the next states."""
        features, energy, spoken, front = self.features(pcm, state, steps)
        sureness = self.sureness(spoken).reshape(-1, steps, 1)
        logits, after = self.logits(features, energy, state, steps)
        if not self.config.intensity:
            return torch.softmax(logits * sureness, dim=-1), spoken, front | after
        logits, strong = torch.split(logits, [len(self.config.labels), 1], dim=-1)
        answers = torch.softmax(logits * sureness, dim=-1)
        return answers, spoken, front | after | {"intensity": self._evidence(state["intensity"], answers, strong)}

    def _evidence(self, before: Tensor, answers: Tensor, strong: Tensor) -> Tensor:
        """Evidence for a strong anger (B, 1), in log odds: decayed by the step, each step counting as much as it is angry.
        Above zero is furious. ``before`` (B, 1), ``answers`` (B, S, classes), ``strong`` (B, S, 1)."""
        decay, steps = self.config.intensity_decay, answers.shape[1]
        angry = LABELS.index("angry")
        new = (answers[:, :, angry : angry + 1] * strong).reshape(-1, steps)
        if steps > 1:
            new = (new * decay ** torch.arange(steps - 1, -1, -1, dtype=torch.float32)).sum(dim=1, keepdim=True)
        return before * decay**steps + new

    def _spoken(self, before: Tensor, loudness: Tensor, steps: int) -> Tensor:
        """How many steps of speech there were up to each step (B, S). A step counts as one where it is as loud as the running
        level, and by its energy where it is not. ``before`` (B, 1) is the count before these steps, ``loudness`` (B, S) their
        energy over the level."""
        loud = torch.clamp(loudness, max=1.0)
        return torch.clamp(before + (loud if steps == 1 else loud.cumsum(dim=1)), max=MOST_SPOKEN)

    def _counted(self, count: Tensor, steps: int) -> Tensor:
        """The next count of steps (B, 1): it only says how much of each window is filled; past the longest it stays."""
        return torch.clamp(count + float(steps), max=float(self.config.longest))

    def _valid(self, count: Tensor, past: int, new: int, steps: int) -> Tensor:
        """1.0 for the keys (B * S, past + new) of each step's window that the call had begun at, else 0.0.

        ``count`` (B, 1) is the number of steps before these. Key j of a window with ``past`` earlier tokens, n to a step, exists
        if j >= past - n * count.
        """
        if steps > 1:
            count = (count + torch.arange(steps, dtype=torch.float32, device=count.device)).reshape(-1, 1)
        key = torch.arange(past + new, dtype=torch.float32, device=count.device)
        return (key >= past - new * count).to(torch.float32)


def additive(keep: Tensor) -> Tensor:
    """A mask for scores (B * S, 1, 1, keys) of ones and zeros (B * S, keys)."""
    return ((1.0 - keep) * MASKED).reshape(-1, 1, 1, keep.shape[1])
