"""Writes the golden stream anew: python -m tests.golden.make, when answers are meant to change; the commit says so."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

from edgeemo.compile.compiler import compile_onnx
from edgeemo.data.clips import find_clips
from edgeemo.evaluate.evaluate import ArtifactModel
from edgeemo.export.onnx_step import export_step
from edgeemo.model.checkpoint import load_checkpoint
from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.plan import quantize_model
from edgeemo.quantize.recipe import load_recipe
from edgeemo.quantize.weights import NEAREST
from edgeemo.targets.board import load_target
from tests.conftest import CALIBRATION, speech


def golden_artifact(exported: onnx.ModelProto, folder: Path, target: str = "host") -> Path:
    """The exported step in INT8, compiled. Its weights are the nearest: by GPTQ the last bits of the floats of whoever
    calibrates decide some of them (154 of 4.5 million for a change of 1e-6), and they 0.026 of an answer."""
    recipe = replace(load_recipe(DEFAULT_RECIPE), weight_rounding=NEAREST)
    quantized, _ = quantize_model(exported, "golden", find_clips(CALIBRATION)[::10], recipe)
    onnx.save(quantized, folder / "golden.onnx")
    artifact = folder / "golden.edgeemo"
    artifact.write_bytes(compile_onnx(folder / "golden.onnx", load_target(target)).archive)
    return artifact


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = ArtifactModel(golden_artifact(export_step(load_checkpoint()), Path(folder)))
        entries = [
            {"clip": clip, "probabilities": [[round(float(p), 5) for p in row] for row in model.run([speech(clip, 20)])[0]]}
            for clip in (10, 110)
        ]
    (Path(__file__).parent / "int8_stream.json").write_text(json.dumps(entries) + "\n")


if __name__ == "__main__":
    main()
