from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.model.call import CallModel
from edgeemo.onnxlib.contract import StreamContract, read_contract, write_contract
from edgeemo.onnxlib.session import OnnxStream
from tests.conftest import speech

pytestmark = pytest.mark.slow


def test_onnx_runtime_equals_torch_over_a_call(model: CallModel, float_onnx: onnx.ModelProto) -> None:
    """48 steps of two calls, one of which pauses in digital silence: the states, not only the first answer, must agree."""
    steps = 48
    audio = np.stack([speech(3, steps), speech(101, steps)]).reshape(2, steps, 1280)
    audio[1, :3] = 0
    audio[1, 20:28] = 0
    contract = read_contract(float_onnx, "m")
    assert contract is not None
    stream = OnnxStream(float_onnx, contract)
    stream.reset(2)
    state = model.initial_state(2)
    worst = 0.0
    for s in range(steps):
        with torch.no_grad():
            expected, state = model(torch.from_numpy(audio[:, s].copy()), state)
        worst = max(worst, float(np.abs(stream.probabilities(audio[:, s]) - expected[:, 0].numpy()).max()))
    assert worst <= 1e-4


def test_batch_is_symbolic_and_the_contract_complete(model: CallModel, float_onnx: onnx.ModelProto) -> None:
    onnx.checker.check_model(float_onnx, full_check=True)
    contract = read_contract(float_onnx, "m")
    assert contract is not None
    assert (contract.sample_rate, contract.samples_per_step, contract.ring_frames) == (8000, 1280, 51)
    assert [s.name for s in contract.states] == list(model.state_spec())
    for value in (*float_onnx.graph.input, *float_onnx.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_layers_have_their_modules_names(float_onnx: onnx.ModelProto) -> None:
    names = {n.name for n in float_onnx.graph.node}
    assert {"emotion_conv.conv", "layers.1.ffn.down", "layers.0.global_path.qkv", "head.classifier", "stem.conv1"} <= names
    assert len(names) == len(float_onnx.graph.node)


def test_contract_survives_and_bad_ones_are_named(float_onnx: onnx.ModelProto) -> None:
    contract = read_contract(float_onnx, "m")
    assert contract is not None
    assert StreamContract.from_json(contract.to_json(), "m") == contract
    with pytest.raises(EdgeEmoError, match=r"m\.onnx: its edgeemo\.stream metadata is not a stream contract"):
        StreamContract.from_json('{"states": []}', "m.onnx")
    other = onnx.ModelProto()
    other.graph.name = "empty"
    write_contract(other, contract)
    with pytest.raises(EdgeEmoError, match=r"names audio, .*which the graph does not have"):
        read_contract(other, "m.onnx")
