from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.model.call import CallModel
from edgeemo.model.checkpoint import DEFAULT_CHECKPOINT, MODELS, load_checkpoint, save_checkpoint
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny


def test_round_trip_is_float16(tmp_path: Path) -> None:
    model = CosyVoiceTiny()
    save_checkpoint(model, tmp_path / "a.safetensors")
    again = load_checkpoint(tmp_path / "a.safetensors")
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(again.state_dict()[name], value.half().float(), rtol=0, atol=0)


def test_committed_checkpoint_fits() -> None:
    assert DEFAULT_CHECKPOINT.stat().st_size <= 12.5e6
    assert not load_checkpoint().training


@pytest.mark.parametrize("content", [None, b"not a checkpoint"])
def test_bad_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EdgeEmoError, match=r"bad\.safetensors"):
        load_checkpoint(path)


def test_folding_changes_nothing(model: CallModel) -> None:
    import copy

    folded = copy.deepcopy(model)
    folded.fold()
    pcm = torch.randn(2, 1280) * 0.1
    with torch.no_grad():
        a, _ = model(pcm, model.initial_state(2))
        b, _ = folded(pcm, folded.initial_state(2))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_comes_back_as_itself_and_the_same_bytes(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[kind][0]()
    for name in "abcd":
        save_checkpoint(model, tmp_path / name)
    assert len({(tmp_path / n).read_bytes() for n in "abcd"}) == 1
    again = load_checkpoint(tmp_path / "a")
    assert type(again) is MODELS[kind][0]
    assert again.config == model.config
