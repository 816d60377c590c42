"""The streaming step as ONNX: audio and states in, probabilities and states out, any batch size, names a person can read."""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from edgeemo.files import write_file
from edgeemo.model.config import INTENSITIES
from edgeemo.model.streaming import StreamingModel
from edgeemo.onnxlib.contract import Intensity, Listening, State, StreamContract, write_contract

OPSET = 20  # the first with Gelu; LayerNormalization came with 17
MAX_BATCH = 1024
AUDIO, PROBABILITIES = "audio", "probabilities"


class StepModule(nn.Module):
    """Positional arguments instead of a dictionary of states, which is what torch.export names inputs by."""

    def __init__(self, model: StreamingModel) -> None:
        super().__init__()
        self.model = model
        self.names = list(model.state_spec())

    def forward(self, audio: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        probabilities, after = self.model(audio, dict(zip(self.names, states, strict=True)))
        return (probabilities.squeeze(1), *(after[n] for n in self.names))


def stream_contract(model: StreamingModel) -> StreamContract:
    c = model.config
    states = tuple(
        State(name, name, f"{name}_next", shape, "float32", update) for name, (shape, update) in model.state_spec().items()
    )
    ring_samples = c.ring_frames * c.step_samples // c.frames_per_step
    intensity = Intensity("angry", INTENSITIES, "intensity") if "intensity" in model.state_spec() else None
    listening = Listening("spoken", c.least_speech) if "spoken" in model.state_spec() else None
    return StreamContract(
        c.sample_rate, c.step_samples, c.ring_frames, ring_samples, c.labels, AUDIO, PROBABILITIES, states, intensity, listening,
        model.hears,
    )  # fmt: skip


def export_step(model: StreamingModel) -> onnx.ModelProto:
    """The checked ONNX model of one step, batch symbolic, stream contract in its metadata."""
    model = copy.deepcopy(model).eval()
    model.fold()
    names = list(model.state_spec())
    # Two streams to trace with: torch.export takes a batch of one for a constant.
    arguments = (torch.zeros(2, model.config.step_samples), *model.initial_state(2).values())
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with _quiet():
        program = torch.onnx.export(
            StepModule(model),
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=[AUDIO, *names],
            output_names=[PROBABILITIES, *(f"{n}_next" for n in names)],
            dynamic_shapes=({0: batch}, tuple({0: batch} for _ in names)),
            verbose=False,
        )
    assert program is not None
    exported = program.model_proto
    _name_layers(exported)
    _name_batch(exported)
    del exported.metadata_props[:]
    exported.doc_string = f"{model.title}: one 160 ms step of a stream"
    write_contract(exported, stream_contract(model))
    onnx.checker.check_model(exported, full_check=True)
    return exported


def save_onnx(model: onnx.ModelProto, path: str | Path, force: bool) -> None:
    write_file(path, model.SerializeToString(deterministic=True), force)


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """torch.onnx prints its stages and warns of operators of packages that are not installed; none of it is the user's."""
    logger = logging.getLogger("torch.onnx")
    level, logger_level = logger.level, logging.ERROR
    logger.setLevel(logger_level)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _name_layers(model: onnx.ModelProto) -> None:
    """Names each MatMul, Gemm and Conv with weights after its torch module, and drops the exporter's trace of itself.

    Weights folded by the exporter get the layer's name too: ``val_315`` becomes ``blocks.0.local_ffn.up.weight``.
    """
    constants = {i.name: i for i in model.graph.initializer}
    taken: dict[str, int] = {}
    renamed: dict[str, str] = {}
    for index, node in enumerate(model.graph.node):
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        module = [s for s in ast.literal_eval(scopes) if s]
        scope = ".".join(module[-2].split(".")[1:]) if len(module) > 1 else ""
        weight = next((i for i in node.input[1:2] if i in constants), None)
        if node.op_type in ("MatMul", "Gemm", "Conv") and weight is not None:
            own = weight.removeprefix("model.")
            base = scope if own.startswith("val_") or (own.startswith(scope) and own.endswith(".weight")) else own
            taken[base] = taken.get(base, 0) + 1
            name = base if taken[base] == 1 else f"{base}_{taken[base]}"
            node.name = name
            if own.startswith("val_"):
                renamed[weight] = f"{name}.weight"
        else:
            node.name = f"{scope or 'step'}.{node.op_type.lower()}_{index}"
        del node.metadata_props[:]
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name.removeprefix("model.") if name in constants else name)
    for constant in model.graph.initializer:
        constant.name = renamed.get(constant.name, constant.name.removeprefix("model."))
    del model.graph.value_info[:]


def _name_batch(model: onnx.ModelProto) -> None:
    """torch names the symbolic batch ``s77`` or so; a reader of the graph is better served by ``batch``."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
