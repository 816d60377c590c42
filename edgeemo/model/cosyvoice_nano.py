"""CosyVoice-nano, emotion: the small size, one definition for training (S steps at once), export and tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeemo.model.call import CallModel, additive
from edgeemo.model.config import NanoConfig
from edgeemo.model.layers import DualPathBlock, EmotionConv, EmotionHead, Subsample
from edgeemo.model.names import COSYVOICE_NANO

# Chosen on dev (docs/training-log.md): the first between the least calibration errors of steps and of clips.
SHARPNESS = 2.5  # of a call that has been heard for long: the recipe smooths labels, so that logits are small
MIN_SPOKEN = 0.1  # steps: without any the answer would be no label's
BLOCK_STATES = ("local_k", "local_v", "global_k", "global_v")
HEAD_STATES = ("head_q", "head_k", "head_v")


class CosyVoiceNano(CallModel):
    """A learnable filterbank, a dual path of local and global attention, an emotion convolution."""

    kind, title = COSYVOICE_NANO, "CosyVoice-nano, emotion"
    config: NanoConfig

    def __init__(self, config: NanoConfig | None = None) -> None:
        c = config or NanoConfig()
        super().__init__(c)
        self.subsample = Subsample(c.bands, c.d_model)
        self.emotion_conv = EmotionConv(c.d_model, c.emotion_groups, c.emotion_lookback)
        self.blocks = nn.ModuleList(
            DualPathBlock(c.d_model, c.heads, (c.local_ffn, c.global_ffn), (c.local_past, c.global_past), c.tokens_per_step)
            for _ in range(c.blocks)
        )
        self.head = EmotionHead(c.d_model, c.heads, c.head_past, c.tokens_per_step, len(c.labels) + c.intensity)
        # A residual branch starts small (GPT-2): at full size the pre-norm stack did not leave chance level at lr 8e-4.
        for name, weight in self.named_parameters():
            if name.startswith("blocks") and name.endswith(("out.weight", "ffn.down.weight")):
                weight.data.mul_((4 * c.blocks) ** -0.5)

    def fold(self) -> None:
        """Turns what only training needs into constants: batch norms into convolutions, softplus into a filterbank."""
        self.frontend.freeze()
        self.subsample.fold()

    def own_states(self) -> dict[str, tuple[tuple[int, ...], str]]:
        c, d = self.config, self.config.d_model
        spec: dict[str, tuple[tuple[int, ...], str]] = {
            "emotion": ((c.emotion_lookback, d), "shift"),
        }
        for i in range(c.blocks):
            for name in BLOCK_STATES:
                past = c.local_past if name.startswith("local") else c.global_past
                spec[f"block{i}_{name}"] = ((past, d), "ring")
        return spec | dict.fromkeys(HEAD_STATES, ((c.head_past, d), "ring"))

    @property
    def classifier(self) -> nn.Linear:
        return self.head.classifier

    def sureness(self, spoken: Tensor) -> Tensor:
        """Goes with how much speech the call has had, as a share of the longest window: from little speech the model is right
        less often than it thinks, and a mean over steps is then led by those that have heard more."""
        longest = float(self.config.longest)
        return torch.clamp(torch.clamp(spoken, min=MIN_SPOKEN), max=longest) * (SHARPNESS / longest)

    def logits(self, features: Tensor, energy: Tensor, state: dict[str, Tensor], steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        seen = torch.cat([state["frames"], features], dim=1)
        x, emotion = self.emotion_conv(self.subsample(seen), state["emotion"])
        valid = {
            name: self._valid(state["steps"], past, new, steps)
            for name, past, new in (
                ("local", c.local_past, c.tokens_per_step),
                ("global", c.global_past, 1),
                ("head", c.head_past, c.tokens_per_step),
            )
        }
        masks = {name: additive(keep) for name, keep in valid.items()}
        after = {"steps": self._counted(state["steps"], steps), "frames": seen[:, -c.frames_lookback :], "emotion": emotion}
        g = None
        for i, block in enumerate(self.blocks):
            names = [f"block{i}_{n}" for n in BLOCK_STATES]
            x, g, past = block(x, g, [state[n] for n in names], masks["local"], masks["global"], steps)
            after |= dict(zip(names, past, strict=True))
        logits, past = self.head(
            x,
            [state[n] for n in HEAD_STATES],
            masks["head"],
            valid["head"].reshape(-1, c.head_past + c.tokens_per_step, 1),
            steps,
        )
        after |= dict(zip(HEAD_STATES, past, strict=True))
        return logits.reshape(-1, steps, len(c.labels) + c.intensity), after
