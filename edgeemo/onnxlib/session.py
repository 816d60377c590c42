"""A step graph in ONNX Runtime with its states carried along: the reference that calibration, eval and parity tests run."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime

from edgeemo.onnxlib.contract import StreamContract


def open_session(
    model: onnx.ModelProto, extra_outputs: list[str] | None = None, arena: bool = True
) -> onnxruntime.InferenceSession:
    """On one thread, so that sums have one order. ``extra_outputs``: tensors of the graph that it gives as well. ``arena``:
    whether it keeps the memory of a run for the next."""
    if extra_outputs:
        model = copy.deepcopy(model)
        there = {o.name for o in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra_outputs if name not in there)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    # ONNX Runtime's INT8 products saturate on x86 without VNNI (two products in an int16). Values dequantized first are exact.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class OnnxStream:
    """A batch of streams through one ONNX step graph."""

    def __init__(self, model: onnx.ModelProto, contract: StreamContract, extra_outputs: list[str] | None = None) -> None:
        self.contract = contract
        self.session = open_session(model, extra_outputs)
        self.names = [o.name for o in self.session.get_outputs()]
        self.states: dict[str, np.ndarray] = {}

    def reset(self, batch: int) -> None:
        self.states = {s.input: np.zeros((batch, *s.shape), dtype=s.dtype) for s in self.contract.states}

    def step(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """audio (batch, samples_per_step) float32; every output by name."""
        outputs = self.session.run(None, {self.contract.audio: audio, **self.states})
        values = dict(zip(self.names, outputs, strict=True))
        self.states = {s.input: values[s.output] for s in self.contract.states}
        return values

    def state(self, name: str) -> np.ndarray:
        """As the last step left it: (batch, ...)."""
        return self.states[next(s.input for s in self.contract.states if s.name == name)]

    def probabilities(self, audio: np.ndarray) -> np.ndarray:
        return self.step(audio)[self.contract.probabilities]
