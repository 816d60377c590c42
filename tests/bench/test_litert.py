"""The step that LiteRT's converter is given; the converter itself is in an environment of its own (`make bench-peers`)."""

from __future__ import annotations

import copy

import pytest
import torch

from edgeemo.export.onnx_step import StepModule
from edgeemo.model.checkpoint import committed_checkpoint, load_checkpoint

FEW = 2  # streams


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosyvoice-tiny", "cosyvoice-nano"])
def test_a_step_computes_nothing_in_double_precision(name: str) -> None:
    """It takes no float64, not even of constants, which it does not fold."""
    model = copy.deepcopy(load_checkpoint(committed_checkpoint(name))).eval()
    model.fold()
    arguments = (torch.zeros(FEW, model.config.step_samples), *model.initial_state(FEW).values())
    graph = torch.export.export(StepModule(model).eval(), arguments).graph
    values = {node.name: node.meta.get("val") for node in graph.nodes if node.op == "call_function"}
    tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    assert len(tensors) > 100
    assert [name for name, value in tensors.items() if value.dtype == torch.float64] == []
