"""Keys of what edgeemo keeps in a model file's ``metadata_props``."""

from __future__ import annotations

import onnx

STREAM = "edgeemo.stream"  # the stream contract
QUANTIZATION = "edgeemo.quantization"  # the report of `edgeemo quantize`


def read_metadata(model: onnx.ModelProto, key: str) -> str | None:
    return next((p.value for p in model.metadata_props if p.key == key), None)


def write_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    """Sets one key and leaves the others."""
    onnx.helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, key: value})
