"""The windowed models through the chain, in small: torch = ONNX = host artifact, float and INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from edgeemo_runtime import PRESETS, Engine

from edgeemo.compile.compiler import compile_onnx
from edgeemo.data.clips import find_clips
from edgeemo.evaluate.evaluate import ArtifactModel, OnnxModel, TorchModel
from edgeemo.export.onnx_step import export_step
from edgeemo.model.checkpoint import save_checkpoint
from edgeemo.model.mfcc_bilstm import MfccBiLstm, MfccConfig
from edgeemo.model.streaming import StreamingModel
from edgeemo.model.whisper_cls import WhisperConfig, WhisperTinyCls
from edgeemo.quantize.plan import quantize_model
from edgeemo.targets.board import load_target
from tests.conftest import CALIBRATION, speech

pytestmark = pytest.mark.slow

MODELS = {
    "whisper": lambda: WhisperTinyCls(WhisperConfig(width=64, heads=2, layers=2, window_steps=4)),
    "mfcc": lambda: MfccBiLstm(MfccConfig(hidden=16, window_steps=4)),
}


@pytest.fixture(scope="module", params=MODELS)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(3)
    model: StreamingModel = MODELS[request.param]().eval()
    with torch.no_grad():
        # Answers that differ: a random model says one seventh to all, behind more layers the more so.
        model.classifier.weight.mul_({"whisper": 16, "mfcc": 4}[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    paths = {"torch": folder / "m.safetensors", "float": folder / "m.onnx", "int8": folder / "q.onnx"}
    save_checkpoint(model, paths["torch"])
    from edgeemo.model.checkpoint import load_checkpoint

    exported = export_step(load_checkpoint(paths["torch"]))
    onnx.save(exported, paths["float"])
    onnx.save(quantize_model(exported, "float", find_clips(CALIBRATION)[::20])[0], paths["int8"])
    for name in ("float", "int8"):
        paths[f"{name} artifact"] = folder / f"{name}.edgeemo"
        paths[f"{name} artifact"].write_bytes(compile_onnx(paths[name], load_target("host")).archive)
    return paths


@pytest.fixture(scope="module")
def audio() -> list[np.ndarray]:
    return [speech(3, 7), speech(40, 5), speech(90, 7)]


def apart(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


def test_float_is_the_same_all_along(chain: dict[str, Path], audio: list[np.ndarray]) -> None:
    reference = TorchModel(chain["torch"]).run(audio)
    assert np.concatenate(reference).std(axis=0).max() > 0.01
    assert apart(reference, OnnxModel(chain["float"]).run(audio)) < 1e-4
    assert apart(reference, ArtifactModel(chain["float artifact"]).run(audio)) < 5e-4


def test_int8_artifact_is_its_onnx(chain: dict[str, Path], audio: list[np.ndarray]) -> None:
    quantized = OnnxModel(chain["int8"]).run(audio)
    assert apart(quantized, ArtifactModel(chain["int8 artifact"]).run(audio)) < 0.03
    assert apart(quantized, OnnxModel(chain["float"]).run(audio)) > 1e-5


def test_no_second_level_is_invented(chain: dict[str, Path], audio: list[np.ndarray]) -> None:
    """These models do not tell annoyed from furious."""
    for name, kind in (("torch", TorchModel), ("float", OnnxModel), ("float artifact", ArtifactModel)):
        assert kind(chain[name]).evidence(audio[0]) is None
    engine = Engine(chain["float artifact"], 1, PRESETS["raw"])
    stream = engine.open()
    stream.push(audio[0][:1280])
    assert [r.intensity for r in engine.step()] == [""]
