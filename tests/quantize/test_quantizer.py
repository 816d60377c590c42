"""The quantized model as a file: what is in it, that it runs, that it is the same twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeemo_runtime.errors import EdgeEmoError
from onnx import numpy_helper

from edgeemo.data.clips import find_clips
from edgeemo.onnxlib.contract import read_contract
from edgeemo.onnxlib.session import OnnxStream
from edgeemo.quantize.plan import quantize_model
from edgeemo.quantize.recipe import Recipe, load_recipe
from tests.conftest import CALIBRATION, speech

pytestmark = pytest.mark.slow
KEPT = "layers.1.local_path"


@pytest.fixture(scope="module")
def int8(files: dict[str, Path]) -> onnx.ModelProto:
    return onnx.load(files["int8"])


def test_weights_are_symmetric_int8_per_channel(int8: onnx.ModelProto) -> None:
    constants = {i.name: numpy_helper.to_array(i) for i in int8.graph.initializer}
    weights = [n for n in int8.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    assert len(weights) == 18  # every MatMul, Gemm and Conv but the front end's three
    for node in weights:
        w, scale, zero = (constants[i] for i in node.input)
        axis = next(a.i for a in node.attribute if a.name == "axis")
        assert w.dtype == np.int8
        assert w.min() >= -127
        assert scale.shape == (w.shape[axis],)
        assert not zero.any()


def test_caches_hold_quantized_tokens(int8: onnx.ModelProto) -> None:
    """A ring state's input has been through int8: the compiled ring can then hold the bytes."""
    contract = read_contract(int8, "m")
    assert contract is not None
    producer = {o: n for n in int8.graph.node for o in n.output}
    rings = {s.input for s in contract.states if s.update == "ring"}
    joins = [n for n in int8.graph.node if n.op_type == "Concat" and n.input[0] in rings]
    assert len(joins) == len(rings) == 8
    for join in joins:
        dequantize = producer[join.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        assert producer[dequantize.input[0]].op_type == "QuantizeLinear"


def test_attention_kept_in_float_stays_whole(float_onnx: onnx.ModelProto) -> None:
    _, report = quantize_model(float_onnx, "m", find_clips(CALIBRATION)[:2], Recipe().keep((KEPT,), "fp16", "--keep-fp16"))
    tokens = [r.name for r in report.layers if r.op == "Tokens"]
    assert len(tokens) == 9
    assert not any(name.startswith(KEPT) for name in tokens)


def test_file_is_small(files: dict[str, Path]) -> None:
    assert files["int8"].stat().st_size <= 6.8e6


def test_same_bytes_twice(float_onnx: onnx.ModelProto) -> None:
    clips = find_clips(CALIBRATION)[::50]
    first, second = (
        quantize_model(float_onnx, "m", clips, progress=lambda n: None)[0].SerializeToString(deterministic=True) for _ in "12"
    )
    assert first == second


@pytest.mark.parametrize("kind", ["int8", "fp16"])
def test_runs_in_onnx_runtime_and_is_close_to_float(files: dict[str, Path], kind: str) -> None:
    """In the mean over forty clips: one by itself is up to five times as far, another one with every way of rounding."""
    clips = range(0, 200, 5)
    answers = {}
    for name in ("float", kind):
        model = onnx.load(files[name])
        contract = read_contract(model, name)
        assert contract is not None
        stream = OnnxStream(model, contract)
        stream.reset(len(clips))
        audio = np.stack([speech(c, 12).reshape(12, 1280) for c in clips])
        answers[name] = np.stack([stream.probabilities(audio[:, s]) for s in range(12)])
    assert np.isfinite(answers[kind]).all()
    assert np.abs(answers[kind] - answers["float"]).mean() < {"int8": 0.012, "fp16": 0.02}[kind]


def test_report_names_every_layer(float_onnx: onnx.ModelProto) -> None:
    _, report = quantize_model(float_onnx, "m", find_clips(CALIBRATION)[::40], load_recipe("int8-kl-fp16-emotion-conv"))
    by_name = {r.name: r for r in report.layers}
    assert by_name["emotion_conv.conv"].precision == "fp16"
    assert by_name["frontend.outer_dft"].precision == "fp32"
    int8 = [r for r in report.layers if r.precision == "int8"]
    assert [r.op for r in int8].count("Tokens") == 12  # queries, keys and values of four attentions
    assert len(int8) == 17 + 12
    assert all(r.sqnr_db is not None and r.sqnr_db > 10 for r in int8)
    assert all(r.scale is not None and r.scale > 0 for r in int8)


def test_unknown_layer_lists_the_known(float_onnx: onnx.ModelProto) -> None:
    with pytest.raises(
        EdgeEmoError,
        match=r"--keep-fp16 nothing_here: no layer's name matches; the layers are frontend\.inner_dft, .*stem\.conv1",
    ):
        quantize_model(float_onnx, "m", find_clips(CALIBRATION)[:1], Recipe().keep(("nothing_here",), "fp16", "--keep-fp16"))
    with pytest.raises(EdgeEmoError, match="not a regular expression"):
        quantize_model(float_onnx, "m", find_clips(CALIBRATION)[:1], Recipe().keep(("(",), "fp16", "--keep-fp16"))
