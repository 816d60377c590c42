"""Parameters and multiply-accumulates of a model, counted from its modules while a step runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.streaming import StreamingModel


@dataclass(frozen=True)
class ModelSize:
    parameters: int
    fp32_bytes: int
    macs_per_step: int  # multiply-accumulates of one 160 ms step of one stream
    emotion_conv_macs: int


def _macs(module: nn.Module, call) -> int:  # type: ignore[no-untyped-def]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(module)
    return counter.get_total_flops() // 2


def model_size(model: StreamingModel) -> ModelSize:
    """Counts what torch executes: products, convolutions and attention; elementwise work is not in it."""
    c = model.config
    parameters = sum(p.numel() for p in model.parameters())
    pcm = torch.zeros(1, c.step_samples)
    total = _macs(model, lambda m: m(pcm, m.initial_state(1)))
    emotion = 0
    if isinstance(model, CosyVoiceTiny | CosyVoiceNano):
        tokens, past = torch.zeros(1, c.tokens_per_step, c.d_model), torch.zeros(1, c.emotion_lookback, c.d_model)
        emotion = _macs(model.emotion_conv, lambda m: m(tokens, past))
    return ModelSize(parameters, parameters * 4, total, emotion)
