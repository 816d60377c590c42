"""A small model that can be analysed in seconds: a BiLSTM of 16, an eighth of a second of context."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from edgeemo.data.clips import find_clips
from edgeemo.export.onnx_step import export_step
from edgeemo.model.mfcc_bilstm import MfccBiLstm, MfccConfig
from edgeemo.quantize.calibration.runner import Calibration
from edgeemo.quantize.plan import Plan, observe, plan
from edgeemo.quantize.recipe import load_recipe
from tests.conftest import CALIBRATION

CLIPS = find_clips(CALIBRATION)[::25]


@pytest.fixture(scope="session")
def small() -> onnx.ModelProto:
    torch.manual_seed(0)
    return export_step(MfccBiLstm(MfccConfig(hidden=16, window_steps=2)).eval())


@pytest.fixture(scope="session")
def small_file(small: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    onnx.save(small, path)
    return path


@pytest.fixture(scope="session")
def planned(small: onnx.ModelProto) -> Plan:
    return plan(small, "small", load_recipe("int8-kl"))


@pytest.fixture(scope="session")
def calibration(planned: Plan) -> Calibration:
    return observe(planned, CLIPS)
