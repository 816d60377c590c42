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
FLOAT, INT8, PRODUCTS = "litert-float.tflite", "litert-int8.tflite", "litert-int8-products.tflite"


def write_litert(model: StreamingModel, streams: int, folder: Path) -> None:
    """Writes a float file and two of static int8, weights and activations, for a batch of ``streams``: all operators, as its
    recipe of that name has it, and products alone, which is quicker: norms and activations in int8 are slow there.

    The ranges come from noise: they decide what LiteRT answers, not how long it takes.
    """
    import litert_torch

    model = copy.deepcopy(model).eval()
    model.fold()
    arguments = (torch.zeros(streams, model.config.step_samples), *model.initial_state(streams).values())
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        litert_torch.convert(StepModule(model).eval(), arguments).export(str(folder / FLOAT))
        feeds = _calibration(folder / FLOAT)
        for name, recipe in _recipes().items():
            _quantize(folder / FLOAT, recipe, feeds, folder / name)


def _recipes() -> dict[str, Any]:
    """By name of the file."""
    from ai_edge_quantizer import recipe, recipe_manager
    from ai_edge_quantizer.qtyping import TFLOperationName

    products = recipe_manager.RecipeManager()
    for name in (TFLOperationName.FULLY_CONNECTED, TFLOperationName.CONV_2D):
        products.add_static_config(regex=".*", operation_name=name, activation_num_bits=8, weight_num_bits=8)
    return {INT8: recipe.static_wi8_ai8(), PRODUCTS: products.get_quantization_recipe()}


def _quantize(model: Path, recipe: Any, feeds: dict[str, list[dict[str, np.ndarray]]], out: Path) -> None:
    from ai_edge_quantizer import quantizer

    quantizing = quantizer.Quantizer(str(model))
    quantizing.load_quantization_recipe(recipe)
    ranges = quantizing.calibrate(feeds)
    out.unlink(missing_ok=True)  # it does not write over a file
    quantizing.quantize(ranges).export_model(str(out))


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
