"""Sizes of CosyVoice-Tiny and of the stream it lives on: one frozen dataclass, written into every checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Self

INTENSITIES = ("annoyed", "furious")  # the second level of the label angry
LABELS = ("angry", "happy", "sad", "neutral", "fear", "disgust", "surprise")


@dataclass(frozen=True)
class Sizes:
    """Base of all configurations: it goes into the checkpoint and comes back."""

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
class CallConfig(Sizes, ABC):
    """Base of the models that hear a call step by step: the stream, the filterbank, the second level of anger."""

    sample_rate: int = 8000  # Hz
    step_samples: int = 1280  # samples per step, 160 ms
    frames_per_step: int = 16
    window: int = 200  # samples, 25 ms Hann
    n_fft: int = 256
    bands: int = 64  # filterbank channels
    level_decay: float = 0.95  # per step; time constant about 3 s
    relative_floor: float = 1e-6  # of a band's energy, under the running level: what is quieter cannot be told apart
    least_speech: float = 4.0  # steps of speech, 0.64 s, before a call has a label: until then it is listened to
    intensity: bool = False  # whether there is a second head: how strong an anger is
    intensity_decay: float = 0.95  # of its evidence, per step

    slaney: ClassVar[bool] = True  # whether the filterbank starts as Whisper's, on Slaney's mel scale
    filter_floor: float = 0.0  # weight of bins outside a band's triangle; 0 leaves them out for good, and their products
    frames_lookback = 3  # frames that two convolutions of kernel 3 see before the step
    emotion_lookback = 2  # tokens before the step under a causal kernel of 3

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS

    @property
    @abstractmethod
    def longest(self) -> int:
        """Steps in the longest window."""


@dataclass(frozen=True)
class TinyConfig(CallConfig):
    """Numbers that fix CosyVoice-Tiny.

    A step is 16 frames of 10 ms, as Whisper has them, and 4 tokens of 40 ms. The ring is 51 frames: the 12 tokens that the local
    path of two layers reaches over (48 frames), and 3 frames of look-back.
    """

    d_model: int = 384
    heads: int = 6  # half of them local, half global
    ffn: int = 1440  # Whisper's 1536 less those that do least
    layers: int = 2
    emotion_groups: int = 3
    local_past: int = 4  # tokens seen before the step by local heads: 4 + 4 = 8 tokens, 320 ms
    global_past: int = 96  # and by global ones: 96 + 4 = 100 tokens, 4 s
    summary_decay: float = 0.97  # of the mean and deviation over the call, per step; time constant about 5 s
    hidden: int = 192  # of the classifier's first layer
    summary: int = 256  # of its second
    # Logits are multiplied with least + more s / (s + half), s steps of speech; fitted on dev.
    sure_least: float = 0.1
    sure_more: float = 1.0
    sure_half: float = 6.0
    tokens_per_step = 4

    @property
    def longest(self) -> int:
        return self.global_past // self.tokens_per_step + 1

    @property
    def ring_frames(self) -> int:
        """Frames the answer of one step depends on directly: the step's, the local path's before it, the look-back."""
        tokens = self.layers * self.local_past + self.tokens_per_step
        return self.frames_per_step // self.tokens_per_step * tokens + self.frames_lookback


@dataclass(frozen=True)
class NanoConfig(CallConfig):
    """Numbers that fix CosyVoice-nano.

    Times follow from them: a step is ``step_samples / sample_rate`` = 160 ms, a frame hop 13 1/3 ms (three frames per
    320 samples), a token 53 1/3 ms (four frames), the ring 51 frames = 48 (640 ms) + 3 frames of look-back.
    """

    frames_per_step: int = 12
    relative_floor: float = 1e-4  # -40 dB under the running level: keeps line noise from moving the features
    d_model: int = 256
    heads: int = 4
    local_ffn: int = 256  # hidden width per token, three to a step
    global_ffn: int = 1792  # and per step-token, one to a step: where parameters cost least
    blocks: int = 3
    emotion_groups: int = 2
    local_past: int = 3  # tokens seen before the step: 3 + 3 = 6 tokens, 320 ms
    global_past: int = 24  # steps seen before this one: 24 + 1 = 25 steps, 4 s
    head_past: int = 9  # tokens seen before the step by the head: 9 + 3 = 12 tokens, 640 ms

    slaney: ClassVar[bool] = False
    tokens_per_step = 3

    @property
    def longest(self) -> int:
        return self.global_past + 1

    @property
    def ring_frames(self) -> int:
        """Frames the answer of one step depends on directly: 48 under the head's window and 3 of look-back."""
        return self.frames_per_step // self.tokens_per_step * (self.head_past + self.tokens_per_step) + self.frames_lookback
