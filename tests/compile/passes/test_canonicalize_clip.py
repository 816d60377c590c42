from __future__ import annotations

import numpy as np
from onnx import helper

from edgeemo.compile.passes import canonicalize_clip
from tests.compile.passes.relax_out import after
from tests.graphs import graph


def test_a_clip_becomes_maximum_and_minimum() -> None:
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    model = graph([helper.make_node("Clip", ["x", "low", "high"], ["y"])], {"x": ["batch", 8]}, {"y": ["batch", 8]}, bounds)
    before, _, _ = after(model)
    assert set(before) == {"call_tir", "isnan", "where"}  # a check of its bounds next to the loops
    assert sorted(after(model, canonicalize_clip)[0]) == ["maximum", "minimum"]


def test_a_symmetric_clip_of_int8_is_remembered() -> None:
    """At 127 it is none: kernels take that for the whole of int8, of which -128 is part."""
    for bound, remembered in ((80, [80]), (127, [])):
        constants = {"s": np.float32(0.1), "z": np.int8(0), "low": np.int8(-bound), "high": np.int8(bound)}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("Clip", ["q", "low", "high"], ["c"]),
            helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
        ]
        names, _, seen = after(graph(nodes, {"x": ["batch", 8]}, {"y": ["batch", 8]}, constants), canonicalize_clip)
        assert list(seen.qmax.values()) == remembered
        assert ("clip" in names) == bool(remembered)
