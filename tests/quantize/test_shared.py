"""One weight under several layers, as an unrolled recurrence has it."""

from __future__ import annotations

import pytest
import torch

from edgeemo.data.clips import find_clips
from edgeemo.export.onnx_step import export_step
from edgeemo.model.mfcc_bilstm import MfccBiLstm, MfccConfig
from edgeemo.quantize.plan import quantize_model
from tests.conftest import CALIBRATION


@pytest.mark.slow
def test_recurrent_products_share_weight_and_threshold() -> None:
    torch.manual_seed(0)
    exported = export_step(MfccBiLstm(MfccConfig(hidden=16, window_steps=2)).eval())
    quantized, report = quantize_model(exported, "m", find_clips(CALIBRATION)[::50])
    recurrent = [r for r in report.layers if r.name.startswith("lstm_recurrent") and "reverse" not in r.name]
    assert len(recurrent) == 7 and all(r.precision == "int8" for r in recurrent)  # eight tokens, the first has nothing before it
    assert len({r.scale for r in recurrent}) == 1
    assert [i.name for i in quantized.graph.initializer].count("lstm_recurrent_int8") == 1
    assert {r.name for r in recurrent} == {"lstm_recurrent", *(f"lstm_recurrent_{n}" for n in range(2, 8))}
