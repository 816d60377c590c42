"""Things many tests share: small clips, the exported and compiled model (made once a session), the real corpus where it is."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import numpy as np
import onnx
import pytest
import torch

from edgeemo.compile.compiler import Compiled, compile_onnx
from edgeemo.data.clips import find_clips
from edgeemo.export.onnx_step import export_step
from edgeemo.model.call import CallModel
from edgeemo.model.checkpoint import load_checkpoint
from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.plan import observe, plan, quantize_plan
from edgeemo.quantize.recipe import load_recipe
from edgeemo.targets.board import load_target

ROOT = Path(__file__).parents[1]
CALIBRATION = ROOT / "calibration"
SPEECH = ROOT / "speech"  # real clips of speakers that no model was trained on
CORPUS = ROOT.parent / "shared" / "data" / "emotion"

torch.set_num_threads(1)
# A deadline per example, or a limit on making one, is a timed test: it fails where a machine is busy.
SETTINGS = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
# Examples are the same at every run, so that a red test is the change's doing; `make explore` draws new ones.
hypothesis.settings.register_profile("edgeemo", derandomize=True, **SETTINGS)
hypothesis.settings.register_profile("explore", **SETTINGS)
hypothesis.settings.load_profile("edgeemo")


def speech(clip: int, steps: int) -> np.ndarray:
    """``steps`` steps of a calibration clip, repeated if it is shorter; float32."""
    from edgeemo_runtime.audio import load_audio

    audio = load_audio(find_clips(CALIBRATION)[clip].path, 8000)
    return np.resize(audio, steps * 1280)


@pytest.fixture(scope="session")
def model() -> CallModel:
    """The committed checkpoint."""
    return load_checkpoint()


@pytest.fixture(scope="session")
def float_onnx(model: CallModel) -> onnx.ModelProto:
    return export_step(model)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, float_onnx: onnx.ModelProto) -> dict[str, Path]:
    """emotion.onnx, emotion-int8.onnx as `edgeemo quantize` makes it, and emotion-fp16.onnx (KL thresholds, all of int8, the
    emotion convolution kept in FP16)."""
    folder = tmp_path_factory.mktemp("models")
    paths = {"float": folder / "emotion.onnx", "int8": folder / "emotion-int8.onnx", "fp16": folder / "emotion-fp16.onnx"}
    onnx.save(float_onnx, paths["float"])
    plans = {
        k: plan(float_onnx, "float", load_recipe(r)) for k, r in (("int8", DEFAULT_RECIPE), ("fp16", "int8-kl-fp16-emotion-conv"))
    }
    calibration = observe(plans["int8"], find_clips(CALIBRATION))  # of both: what any recipe asks for
    for kind, planned in plans.items():
        onnx.save(quantize_plan(planned, calibration)[0], paths[kind])
    return paths


@pytest.fixture(scope="session")
def host_artifacts(files: dict[str, Path]) -> dict[str, Path]:
    """Artifacts of all three for this machine."""
    made = {}
    for name, path in files.items():
        made[name] = path.with_suffix(".host.edgeemo")
        made[name].write_bytes(compile_onnx(path, load_target("host")).archive)
    return made


@pytest.fixture(scope="session")
def board_compiled(files: dict[str, Path]) -> Compiled:
    """The INT8 model compiled for aarch64-neon."""
    return compile_onnx(files["int8"], load_target("aarch64-neon"))


@pytest.fixture(scope="session")
def board_artifact(files: dict[str, Path], board_compiled: Compiled) -> Path:
    """The INT8 artifact for aarch64-neon."""
    path = files["int8"].with_suffix(".aarch64.edgeemo")
    path.write_bytes(board_compiled.archive)
    return path


EXPORTS = {"float_onnx", "small"}  # fixtures that export a model by torch, and all that are made of those


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever needs an exported model is slow. Fast tests first: a mistake they find should not wait for exports and compiles."""
    for item in items:
        if EXPORTS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
