"""Writes the golden stream anew: python -m tests.golden.make, when answers are meant to change; the commit says so."""

from __future__ import annotations

import json
import tempfile
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
from edgeemo.targets.board import load_target
from tests.conftest import CALIBRATION, speech


def main() -> None:
    quantized, _ = quantize_model(
        export_step(load_checkpoint()), "golden", find_clips(CALIBRATION)[::10], load_recipe(DEFAULT_RECIPE)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        onnx.save(quantized, path)
        artifact = Path(folder, "m.edgeemo")
        artifact.write_bytes(compile_onnx(path, load_target("host")).archive)
        model = ArtifactModel(artifact)
        entries = [
            {"clip": clip, "probabilities": [[round(float(p), 5) for p in row] for row in model.run([speech(clip, 20)])[0]]}
            for clip in (10, 110)
        ]
    (Path(__file__).parent / "int8_stream.json").write_text(json.dumps(entries) + "\n")


if __name__ == "__main__":
    main()
