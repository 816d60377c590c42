"""Our model as LiteRT files, by LiteRT's own converter and quantizer: the peer that `edgeemo bench-peers` runs next to us.

    python -m edgeemo.bench.litert STREAMS FOLDER [CHECKPOINT]

A program of its own, since the converter (litert-torch) wants other versions of packages than TVM: `make bench-peers` runs it in
build/peers.
"""

from __future__ import annotations

import contextlib
import copy
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeemo.export.onnx_step import StepModule
from edgeemo.model.checkpoint import load_checkpoint
from edgeemo.model.streaming import StreamingModel

CALIBRATION_STEPS = 12
FILES = ("litert-float.tflite", "litert-int8.tflite")


def write_litert(model: StreamingModel, streams: int, folder: Path) -> None:
    """Writes litert-float.tflite and litert-int8.tflite (static, int8 weights and activations) for a batch of ``streams``.

    The ranges come from noise: they decide what LiteRT answers, not how long it takes.
    """
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    model = copy.deepcopy(model).eval()
    model.fold()
    arguments = (torch.zeros(streams, model.config.step_samples), *model.initial_state(streams).values())
    floating, int8 = (folder / name for name in FILES)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        litert_torch.convert(StepModule(model).eval(), arguments).export(str(floating))
        quantizing = quantizer.Quantizer(str(floating))
        quantizing.load_quantization_recipe(recipe.static_wi8_ai8())
        ranges = quantizing.calibrate(_calibration(floating))
        int8.unlink(missing_ok=True)  # it does not write over a file
        quantizing.quantize(ranges).export_model(str(int8))


def _calibration(model: Path) -> dict[str, list[dict[str, np.ndarray]]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model))
    key = next(iter(interpreter.get_signature_list()))
    run = interpreter.get_signature_runner(key)
    feed: dict[str, Any] = {n: np.zeros(d["shape"], d["dtype"]) for n, d in run.get_input_details().items()}
    rng, feeds = np.random.default_rng(0), []
    for _ in range(CALIBRATION_STEPS):
        feed = {**feed, "args_0": (0.1 * rng.standard_normal(feed["args_0"].shape)).astype(np.float32)}
        feeds.append(feed)
        states = {"args_" + n.removeprefix("output_"): v for n, v in run(**feed).items() if n != "output_0"}
        feed = {**feed, **states}
    return {key: feeds}


if __name__ == "__main__":
    write_litert(load_checkpoint(*sys.argv[3:4]), int(sys.argv[1]), Path(sys.argv[2]))
