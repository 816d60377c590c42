"""CosyVoice-Tiny, emotion: one definition for training (S steps at once), export (one step) and tests (both agree)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeemo.model.config import LABELS, ModelConfig
from edgeemo.model.frontend import FilterbankFrontend
from edgeemo.model.layers import MASKED, DualPathBlock, EmotionConv, EmotionHead, Subsample
from edgeemo.model.streaming import StreamingModel

# Chosen on dev, by the F1 of clips and of decisions in long calls (docs/training-log.md).
SHARPNESS = 1.5  # of a call that has been heard for long: the recipe smooths labels, so that logits are small
LEAST_SPOKEN = 0.1  # steps: without any the answer would be no label's
BLOCK_STATES = ("local_k", "local_v", "global_k", "global_v")
HEAD_STATES = ("head_q", "head_k", "head_v")


class CosyVoiceTiny(StreamingModel):
    """A learnable filterbank, a dual path of local and global attention, an emotion convolution."""

    kind, title = "cosyvoice-tiny", "CosyVoice-Tiny, emotion"
    config: ModelConfig

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or ModelConfig()
        self.frontend = FilterbankFrontend(c)
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

    def state_spec(self) -> dict[str, tuple[tuple[int, ...], str]]:
        c, d = self.config, self.config.d_model
        spec: dict[str, tuple[tuple[int, ...], str]] = {
            "pcm": ((self.frontend.history,), "shift"),
            "level": ((2,), "replace"),
            "spoken": ((1,), "replace"),
            "steps": ((1,), "replace"),
            "frames": ((c.frames_lookback, c.bands), "shift"),
            "emotion": ((c.emotion_lookback, d), "shift"),
        }
        for i in range(c.blocks):
            for name in BLOCK_STATES:
                past = c.local_past if name.startswith("local") else c.global_past
                spec[f"block{i}_{name}"] = ((past, d), "ring")
        spec |= dict.fromkeys(HEAD_STATES, ((c.head_past, d), "ring"))
        if c.intensity:
            spec["intensity"] = ((1,), "replace")
        return spec

    def features(self, pcm: Tensor, state: dict[str, Tensor], steps: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Filterbank features (B, 12 S, bands) of the step(s), what logits are to be multiplied with (B, S, 1), and the states of
        the front end."""
        samples = torch.cat([state["pcm"], pcm], dim=1)
        features, level, loudness = self.frontend(samples, state["level"], steps)
        sureness, spoken = self._sureness(state["spoken"], loudness, steps)
        return features, sureness, {"pcm": samples[:, -self.frontend.history :], "level": level, "spoken": spoken}

    def logits(self, features: Tensor, state: dict[str, Tensor], steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, S, classes) of features (B, 12 S, bands), followed by that of a strong anger where the model has that head;
        and the states of everything behind the front end."""
        c = self.config
        seen = torch.cat([state["frames"], features], dim=1)
        x, emotion = self.emotion_conv(self.subsample(seen), state["emotion"])
        masks = self._masks(state["steps"], steps)
        # The count only says how much of each window is filled; past the longest window it stays where it is.
        count = torch.clamp(state["steps"] + float(steps), max=float(c.global_past + 1))
        after = {"steps": count, "frames": seen[:, -c.frames_lookback :], "emotion": emotion}
        g = None
        for i, block in enumerate(self.blocks):
            names = [f"block{i}_{n}" for n in BLOCK_STATES]
            x, g, past = block(x, g, [state[n] for n in names], masks["local"], masks["global"], steps)
            after |= dict(zip(names, past, strict=True))
        logits, past = self.head(x, [state[n] for n in HEAD_STATES], masks["head"], masks["head_valid"], steps)
        after |= dict(zip(HEAD_STATES, past, strict=True))
        return logits.reshape(-1, steps, len(c.labels) + c.intensity), after

    def forward(self, pcm: Tensor, state: dict[str, Tensor], steps: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
        features, sureness, front = self.features(pcm, state, steps)
        logits, after = self.logits(features, state, steps)
        if not self.config.intensity:
            return torch.softmax(logits * sureness, dim=-1), front | after
        logits, strong = torch.split(logits, [len(self.config.labels), 1], dim=-1)
        answers = torch.softmax(logits * sureness, dim=-1)
        return answers, front | after | {"intensity": self._evidence(state["intensity"], answers, strong)}

    def _evidence(self, before: Tensor, answers: Tensor, strong: Tensor) -> Tensor:
        """What speaks for a strong anger (B, 1), in log odds: decayed by the step, each step counting as much as it is angry.
        Above zero is furious. ``before`` (B, 1), ``answers`` (B, S, classes), ``strong`` (B, S, 1)."""
        decay, steps = self.config.intensity_decay, answers.shape[1]
        angry = LABELS.index("angry")
        new = (answers[:, :, angry : angry + 1] * strong).reshape(-1, steps)
        if steps > 1:
            new = (new * decay ** torch.arange(steps - 1, -1, -1, dtype=torch.float32)).sum(dim=1, keepdim=True)
        return before * decay**steps + new

    def _sureness(self, spoken: Tensor, loudness: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """What logits are multiplied with, (B, S, 1), and the next state. That goes with how much speech the call has had, as a
        share of the longest window: from little speech the model is right less often than it thinks, and a mean over steps is
        then led by those that have heard more. A step counts as one where it is as loud as the running level, and by its energy
        where it is not. ``spoken`` (B, 1) is the count before these steps, ``loudness`` (B, S) their energy over the level."""
        longest = float(self.config.global_past + 1)
        loud = torch.clamp(loudness, max=1.0)
        heard = torch.clamp(spoken + (loud if steps == 1 else loud.cumsum(dim=1)), max=longest)
        share = (torch.clamp(heard, min=LEAST_SPOKEN) * (1.0 / longest)).reshape(-1, steps, 1)
        return share * SHARPNESS, heard[:, -1:]

    def _masks(self, count: Tensor, steps: int) -> dict[str, Tensor]:
        """Additive masks (B * S, 1, 1, keys) over the part of each window that lies before the call began.

        ``count`` (B, 1) is the number of steps before these. Key j of a window with ``past`` earlier tokens, n to a
        step, exists if j >= past - n * count.
        """
        c = self.config
        if steps > 1:
            count = (count + torch.arange(steps, dtype=torch.float32, device=count.device)).reshape(-1, 1)

        def valid(past: int, new: int) -> Tensor:
            key = torch.arange(past + new, dtype=torch.float32, device=count.device)
            return (key >= past - new * count).to(torch.float32)

        def additive(keep: Tensor) -> Tensor:
            return ((1.0 - keep) * MASKED).reshape(-1, 1, 1, keep.shape[1])

        head = valid(c.head_past, c.tokens_per_step)
        return {
            "local": additive(valid(c.local_past, c.tokens_per_step)),
            "global": additive(valid(c.global_past, 1)),
            "head": additive(head),
            "head_valid": head.reshape(-1, head.shape[1], 1),
        }
