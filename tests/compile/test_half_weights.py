"""FP16 weights: multiplied in halves where `quantize` kept them so, else only stored so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeemo.compile.codegen.verify import instructions
from edgeemo.compile.compiler import compile_onnx
from edgeemo.onnxlib.metadata import QUANTIZATION, write_metadata
from edgeemo.quantize.recipe import Recipe
from edgeemo.targets.board import load_target
from tests.graphs import graph, quantized

K, N = 64, 32


def product(stored: int) -> onnx.ModelProto:
    """A product with weights stored in a type, which the graph computes in float32."""
    weight = np.random.default_rng(0).standard_normal((K, N)).astype(helper.tensor_dtype_to_np_dtype(stored))
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["y"], name="product"),
    ]
    if stored == TensorProto.FLOAT:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    return graph(nodes, {"x": ["N", K]}, {"y": ["N", N]}, {"w": weight})


def in_halves(model: onnx.ModelProto, folder: Path, target: str = "pi5") -> bool:
    """Whether its code multiplies in halves."""
    onnx.save(model, folder / "m.onnx")
    made = compile_onnx(folder / "m.onnx", load_target(target))
    assert any(name.startswith("gemm_f16") for name in made.kernels)
    (folder / "step.o").write_bytes(made.objects)
    texts = [text for _, text in instructions(folder / "step.o", load_target(target))]
    return any(text.startswith("fmla") and ".8h" in text for text in texts)


@pytest.mark.slow
def test_layers_that_quantize_kept_are_multiplied_in_halves_where_the_core_can(tmp_path: Path) -> None:
    kept = quantized(product(TensorProto.FLOAT), tmp_path, Recipe().keep(("product",), "fp16", "-"))
    assert in_halves(kept, tmp_path)
    assert not in_halves(kept, tmp_path, "pi4")


@pytest.mark.slow
@pytest.mark.parametrize("metadata", [None, "[]", "{}", '{"layers": 3}', '{"layers": [1, {"precision": "int8"}]}'])
def test_another_s_half_weights_are_widened(metadata: str | None, tmp_path: Path) -> None:
    """Its graph computes in float32; nobody said that a thousandth is near enough."""
    model = product(TensorProto.FLOAT16)
    if metadata is not None:
        write_metadata(model, QUANTIZATION, metadata)
    assert not in_halves(model, tmp_path)
