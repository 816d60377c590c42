"""CosyVoice-Tiny, emotion: one definition for training (S steps at once), export (one step) and tests (both agree)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeemo.model.call import CallModel, additive
from edgeemo.model.config import TinyConfig
from edgeemo.model.encoder import LAYER_STATES, EncoderLayer, Positions, Stem, Summary, SummaryHead
from edgeemo.model.layers import EmotionConv
from edgeemo.model.names import COSYVOICE_TINY

# log10(energy over the running level) / 4 + 0.4: Whisper's scale, in which a clip's loudest band is about at 1.0.
WHISPER_GAIN, WHISPER_OFFSET = 0.25 / 2.302585, 0.4
SUMMARY_STATES = ("summary", "summary_weight")


class CosyVoiceTiny(CallModel):
    """A learnable filterbank, the front of Whisper's encoder made to stream with a local and a global path of heads, an emotion
    convolution before them, and a classifier of what the call has sounded like: mean and deviation of every layer's tokens."""

    kind, title, hears = COSYVOICE_TINY, "CosyVoice-Tiny, emotion", "call"
    config: TinyConfig

    def __init__(self, config: TinyConfig | None = None) -> None:
        c = config or TinyConfig()
        super().__init__(c)
        self.frontend.band_gain.fill_(WHISPER_GAIN)
        self.frontend.band_mean.fill_(-WHISPER_OFFSET / WHISPER_GAIN)
        self.stem = Stem(c.bands, c.d_model)
        self.emotion_conv = EmotionConv(c.d_model, c.emotion_groups, c.emotion_lookback)
        nn.init.zeros_(self.emotion_conv.conv.weight)  # begins as nothing: what comes after it knows tokens without it
        assert self.emotion_conv.conv.bias is not None
        nn.init.zeros_(self.emotion_conv.conv.bias)
        self.positions = Positions(c.d_model, c.tokens_per_step)
        past = (c.local_past, c.global_past)
        self.layers = nn.ModuleList(EncoderLayer(c.d_model, c.heads, c.ffn, past, c.tokens_per_step) for _ in range(c.layers))
        self.summary = Summary(c.summary_decay, c.tokens_per_step)
        self.head = SummaryHead(2 * self._summarised, c.hidden, c.summary, len(c.labels) + c.intensity)

    @property
    def _summarised(self) -> int:
        return (self.config.layers + 1) * self.config.d_model

    def fold(self) -> None:
        """Turns what only training needs into constants, and evens what INT8 would lose."""
        self.frontend.freeze()
        self.positions.fold()
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.equalise()

    def own_states(self) -> dict[str, tuple[tuple[int, ...], str]]:
        c, d = self.config, self.config.d_model
        spec: dict[str, tuple[tuple[int, ...], str]] = {
            "emotion": ((c.emotion_lookback, d), "shift"),
            "position": ((d,), "replace"),
        }
        for i in range(c.layers):
            for name in LAYER_STATES:
                spec[f"layer{i}_{name}"] = ((c.local_past if name.startswith("local") else c.global_past, d // 2), "ring")
        return spec | {"summary": ((2 * self._summarised,), "replace"), "summary_weight": ((1,), "replace")}

    @property
    def classifier(self) -> nn.Linear:
        return self.head.classifier

    def sureness(self, spoken: Tensor) -> Tensor:
        """Rises with how much speech the call has had: from little of it the model is right less often than it thinks."""
        c = self.config
        return c.sure_least + c.sure_more * spoken / (spoken + c.sure_half)

    def tokens(self, features: Tensor, state: dict[str, Tensor], steps: int) -> tuple[list[Tensor], dict[str, Tensor]]:
        """States of each layer, the stem first, without positions: each (B, 4 S, d); and the next states."""
        c = self.config
        seen = torch.cat([state["frames"], features], dim=1)
        x, emotion = self.emotion_conv(self.stem(seen), state["emotion"])
        local, wide = (
            additive(self._valid(state["steps"], past, c.tokens_per_step, steps)) for past in (c.local_past, c.global_past)
        )
        after = {"steps": self._counted(state["steps"], steps), "frames": seen[:, -c.frames_lookback :], "emotion": emotion}
        positions, after["position"] = self.positions(state["position"], steps)
        layers = [x]
        x = x + positions
        for i, layer in enumerate(self.layers):
            names = [f"layer{i}_{n}" for n in LAYER_STATES]
            x, past = layer(x, [state[n] for n in names], local, wide, steps)
            after |= dict(zip(names, past, strict=True))
            layers.append(x - positions)
        return layers, after

    def logits(self, features: Tensor, energy: Tensor, state: dict[str, Tensor], steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        layers, after = self.tokens(features, state, steps)
        pooled, summary = self.summary(layers, energy, [state[n] for n in SUMMARY_STATES], steps)
        return self.head(pooled), after | dict(zip(SUMMARY_STATES, summary, strict=True))
