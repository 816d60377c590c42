from __future__ import annotations

import numpy as np
from onnx import helper

from edgeemo.compile.passes import fuse_layer_norm, lower_quantize
from tests.compile.passes.relax_out import after
from tests.graphs import graph

CONSTANTS = {"g": np.ones(8, np.float32), "b": np.zeros(8, np.float32), "s": np.float32(0.1), "z": np.int8(0)}
NORM = helper.make_node("LayerNormalization", ["x", "g", "b"], ["n"], axis=-1)
QUANTIZE = helper.make_node("QuantizeLinear", ["n", "s", "z"], ["q"])
DEQUANTIZE = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])


def test_a_layer_norm_takes_the_quantize_with_it() -> None:
    model = graph([NORM, QUANTIZE, DEQUANTIZE], {"x": ["batch", 3, 8]}, {"y": ["batch", 3, 8]}, CONSTANTS)
    assert after(model, fuse_layer_norm, lower_quantize)[0] == ["layer_norm_rows3_d8_quantize", "dequantize"]


def test_a_width_that_is_no_multiple_of_four_is_left() -> None:
    constants = {"g": np.ones(6, np.float32), "b": np.zeros(6, np.float32)}
    model = graph([NORM], {"x": ["batch", 3, 6]}, {"n": ["batch", 3, 6]}, constants)
    assert after(model, fuse_layer_norm)[0] == ["nn.layer_norm"]
