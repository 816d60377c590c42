"""One definition: step by step, all at once, padded or cut, the model gives the same answers, and none from the future."""

from __future__ import annotations

import pytest
import torch

from edgeemo.model.call import CallModel
from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny

STEPS = 34  # past every window: 25 steps of global context


@pytest.fixture(scope="module", params=[CosyVoiceTiny, CosyVoiceNano])
def random_model(request: pytest.FixtureRequest) -> CallModel:
    """Random weights everywhere, so that no term is zero by initialisation."""
    torch.manual_seed(3)
    model: CallModel = request.param().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


@pytest.fixture(scope="module")
def pcm() -> torch.Tensor:
    torch.manual_seed(4)
    level = torch.rand(3, STEPS, 1).repeat_interleave(1280, dim=1).reshape(3, -1)
    return torch.randn(3, STEPS * 1280) * 0.2 * level


def run(model: CallModel, pcm: torch.Tensor, chunk: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    state, outputs = model.initial_state(len(pcm)), []
    with torch.no_grad():
        for part in pcm.split(chunk * 1280, dim=1):
            p, state = model(part, state, part.shape[1] // 1280)
            outputs.append(p)
    return torch.cat(outputs, dim=1), state


@pytest.mark.parametrize("chunk", [1, 5])
def test_steps_equal_whole_utterance(random_model: CallModel, pcm: torch.Tensor, chunk: int) -> None:
    whole, whole_state = run(random_model, pcm, STEPS)
    stepped, state = run(random_model, pcm, chunk)
    assert (whole - stepped).abs().max() < 1e-4
    for name, value in state.items():
        torch.testing.assert_close(value, whole_state[name], rtol=1e-4, atol=1e-4)


def test_silence_is_finite(random_model: CallModel) -> None:
    answers, state = run(random_model, torch.zeros(1, 4 * 1280), 1)
    assert answers.isfinite().all()
    assert all(v.isfinite().all() for v in state.values())


def test_padded_tail_changes_nothing(random_model: CallModel, pcm: torch.Tensor) -> None:
    short, _ = run(random_model, pcm[:, : 9 * 1280], 9)
    padded, _ = run(random_model, torch.cat([pcm[:, : 9 * 1280], torch.zeros(3, 5 * 1280)], dim=1), 14)
    assert (short - padded[:, :9]).abs().max() < 1e-6


def test_causality(random_model: CallModel, pcm: torch.Tensor) -> None:
    changed = pcm.clone()
    changed[:, 20 * 1280 :] = torch.randn(3, 14 * 1280)
    before, _ = run(random_model, pcm, STEPS)
    after, _ = run(random_model, changed, STEPS)
    assert torch.equal(before[:, :20], after[:, :20])
    assert (before[:, 20:] - after[:, 20:]).abs().max() > 1e-3


def test_last_sample_of_a_step_counts(random_model: CallModel, pcm: torch.Tensor) -> None:
    """No latency beyond the hop: the network uses the audio it was just given, to within half a window."""
    changed = pcm.clone()
    changed[:, 5 * 1280 - 60 : 5 * 1280] += 0.5
    before, _ = run(random_model, pcm, STEPS)
    after, _ = run(random_model, changed, STEPS)
    assert (before[:, 4] - after[:, 4]).abs().max() > 1e-4


def test_streams_do_not_mix(random_model: CallModel, pcm: torch.Tensor) -> None:
    together, _ = run(random_model, pcm, STEPS)
    alone, _ = run(random_model, pcm[1:2], STEPS)
    assert (together[1] - alone[0]).abs().max() < 1e-5
