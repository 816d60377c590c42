"""Annoyed or furious: the evidence is the same along the chain, and is said of confident anger only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from edgeemo_runtime import PRESETS, Engine
from edgeemo_runtime.audio import load_audio

from edgeemo.compile.compiler import compile_onnx
from edgeemo.data.clips import find_clips
from edgeemo.data.corpus import Corpus
from edgeemo.evaluate.evaluate import ArtifactModel, OnnxModel, TorchModel
from edgeemo.export.onnx_step import export_step
from edgeemo.model.call import CallModel
from edgeemo.model.checkpoint import load_checkpoint, save_checkpoint
from edgeemo.model.config import LABELS
from edgeemo.targets.board import load_target
from edgeemo.train.intensity import gathered, with_intensity_head
from tests.conftest import CALIBRATION

pytestmark = pytest.mark.slow
ANGRY = [c for c in find_clips(CALIBRATION) if c.label == LABELS.index("angry")][:16]


@pytest.fixture(scope="module")
def chain(model: CallModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("intensity")
    made = with_intensity_head(model)
    torch.manual_seed(1)
    rows = gathered(made, Corpus(ANGRY, 8000, 1280), None, None)[0].float()
    with torch.no_grad():
        head = made.classifier
        head.weight[-1].normal_()
        head.bias[-1] = -(rows[:, :-1] @ head.weight[-1] / rows[:, -1]).median()  # half of the clips on either side
    paths = {n: folder / f"m.{n}" for n in ("safetensors", "onnx", "edgeemo")}
    save_checkpoint(made, paths["safetensors"])
    onnx.save(export_step(load_checkpoint(paths["safetensors"])), paths["onnx"])
    paths["edgeemo"].write_bytes(compile_onnx(paths["onnx"], load_target("host")).archive)
    return paths


def test_the_evidence_is_the_same_all_along(chain: dict[str, Path]) -> None:
    torch_, onnx_, artifact = TorchModel(chain["safetensors"]), OnnxModel(chain["onnx"]), ArtifactModel(chain["edgeemo"])
    signs = set()
    for clip in ANGRY:
        audio = load_audio(clip.path, 8000)
        evidence = torch_.evidence(audio)
        assert evidence is not None
        assert onnx_.evidence(audio) == pytest.approx(evidence, abs=1e-3, rel=1e-4)
        assert artifact.evidence(audio) == pytest.approx(evidence, abs=0.2, rel=0.02)  # random weights: hundreds
        signs.add(evidence > 0)
    assert signs == {True, False}


def test_it_is_said_of_confident_anger_and_of_nothing_else(chain: dict[str, Path]) -> None:
    rules = replace(PRESETS["raw"], min_confidence=0.4)
    engine, off = (Engine(chain["edgeemo"], 4, r) for r in (rules, replace(rules, intensity=False)))
    said = set()
    for clip in [*ANGRY, *find_clips(CALIBRATION)[::60]]:
        audio = load_audio(clip.path, 8000)
        with engine.open() as stream, off.open() as silent:
            _, names, where = engine.model.intensity or (0, ("", ""), 0)
            for at in range(0, len(audio) - 1280, 1280):
                stream.push(audio[at : at + 1280])
                silent.push(audio[at : at + 1280])
                (result,), (without,) = engine.step(), off.step()
                evidence = engine.model.states[stream._slot, where]
                sure = result.label == "angry" and result.smoothed[LABELS.index("angry")] >= 0.4
                assert result.intensity == (names[int(evidence > 0)] if sure else "")
                assert without.intensity == ""
                np.testing.assert_array_equal(result.probabilities, without.probabilities)
                said.add(result.intensity)
    assert said == {"", "annoyed", "furious"}
