"""Sizes of CosyVoice-Tiny and of the stream it lives on: one frozen dataclass, written into every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Self

INTENSITIES = ("annoyed", "furious")  # the second level of the label angry
LABELS = ("angry", "happy", "sad", "neutral", "fear", "disgust", "surprise")


@dataclass(frozen=True)
class Sizes:
    """What a model's configuration has in common with every other's: it goes into the checkpoint and comes back."""

    def to_dict(self) -> dict[str, int | float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, int | float]) -> Self:
        """Raises ValueError naming an unknown key, so that a checkpoint of another architecture is not half loaded."""
        known = {f.name for f in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown model configuration keys: {', '.join(sorted(unknown))}")
        return cls(**values)


@dataclass(frozen=True)
class ModelConfig(Sizes):
    """Numbers that fix the architecture.

    Times follow from them: a step is ``step_samples / sample_rate`` = 160 ms, a frame hop 13 1/3 ms (three frames per
    320 samples), a token 53 1/3 ms (four frames), the ring 51 frames = 48 (640 ms) + 3 frames of look-back.
    """

    sample_rate: int = 8000  # Hz
    step_samples: int = 1280  # samples per step
    frames_per_step: int = 12
    window: int = 200  # samples, 25 ms Hann
    n_fft: int = 256
    bands: int = 64  # filterbank channels
    filter_floor: float = 0.0  # weight of bins outside a band's triangle; 0 leaves them out for good, and their products
    d_model: int = 256
    heads: int = 4
    local_ffn: int = 256  # hidden width per token, three to a step
    global_ffn: int = 1792  # and per step-token, one to a step: where parameters cost least
    blocks: int = 3
    emotion_groups: int = 2
    local_past: int = 3  # tokens seen before the step: 3 + 3 = 6 tokens, 320 ms
    global_past: int = 24  # steps seen before this one: 24 + 1 = 25 steps, 4 s
    head_past: int = 9  # tokens seen before the step by the head: 9 + 3 = 12 tokens, 640 ms
    level_decay: float = 0.95  # per step; time constant about 3 s
    intensity: bool = False  # whether there is a second head: how strong an anger is
    intensity_decay: float = 0.95  # of its evidence, per step

    frames_lookback = 3  # frames that two stride-2, kernel-3 causal convolutions see before the step
    tokens_per_step = 3
    emotion_lookback = 2  # tokens before the step under a causal kernel of 3

    @property
    def ring_frames(self) -> int:
        """Frames the answer of one step depends on directly: 48 under the head's window and 3 of look-back."""
        return self.frames_per_step // self.tokens_per_step * (self.head_past + self.tokens_per_step) + self.frames_lookback

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS
