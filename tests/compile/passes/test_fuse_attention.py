from __future__ import annotations

import onnx
import pytest

from edgeemo.compile.passes import canonicalize_clip, fuse_attention
from tests.compile.passes.relax_out import after


@pytest.mark.slow
def test_every_attention_of_the_committed_model_reads_its_rings_in_place(float_onnx: onnx.ModelProto) -> None:
    before, _, _ = after(float_onnx, canonicalize_clip)
    names, context, _ = after(float_onnx, canonicalize_clip, fuse_attention)
    count = before.count("nn.softmax") - names.count("nn.softmax")
    kernels = [n for n in names if n.startswith("attention_f32")]
    assert count == len(kernels) > 0
    assert len(set(context.in_place)) == len(context.in_place) == 2 * count  # keys and values
    assert all(context.states.params[p] in context.layout.shapes for p in context.in_place)
    assert context.layout.period > 1
