from __future__ import annotations

import numpy as np
from onnx import helper

from edgeemo.compile.passes import canonicalize_clip, lower_quantize
from tests.compile.passes.relax_out import after
from tests.graphs import graph


def model(zero: int, bound: int | None = None):  # type: ignore[no-untyped-def]
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])]
    constants = {"s": np.float32(0.1), "z": np.int8(zero)}
    last = "q"
    if bound is not None:
        constants |= {"low": np.int8(-bound), "high": np.int8(bound)}
        nodes.append(helper.make_node("Clip", ["q", "low", "high"], [last := "c"]))
    nodes.append(helper.make_node("DequantizeLinear", [last, "s", "z"], ["y"]))
    return graph(nodes, {"x": ["batch", 8]}, {"y": ["batch", 8]}, constants)


def test_a_symmetric_quantize_is_a_kernel() -> None:
    assert after(model(0), lower_quantize)[0] == ["quantize_8", "dequantize"]


def test_the_clip_behind_it_is_part_of_it() -> None:
    names, context, _ = after(model(0, 80), canonicalize_clip, lower_quantize)
    assert names == ["quantize_8", "dequantize"] and context.table.specs["quantize_8"].qmax == 80


def test_a_zero_point_is_left_to_stock_operators() -> None:
    assert after(model(3), lower_quantize)[0] == ["quantize", "dequantize"]
