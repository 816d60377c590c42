"""The graph around a node, as lowerings see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper

from edgeemo.onnxlib.graph import Maker, Shape, dims, label


@dataclass(frozen=True)
class Context:
    """``types``: of tensors by name, where onnx infers them; ``constants``: initializers."""

    types: dict[str, onnx.ValueInfoProto]
    constants: dict[str, np.ndarray]
    source: str

    def shape(self, name: str) -> Shape:
        """Ints, and a string where the batch is; () where nothing is known."""
        if name in self.constants:
            return self.constants[name].shape
        return dims(self.types[name]) if name in self.types else ()

    def kind(self, name: str) -> int:
        """Element type; 0 where it is not known."""
        if name in self.constants:
            return int(helper.np_dtype_to_tensor_dtype(self.constants[name].dtype))
        return int(self.types[name].type.tensor_type.elem_type) if name in self.types else 0

    def dtype(self, name: str) -> np.dtype:
        return helper.tensor_dtype_to_np_dtype(self.kind(name)) if self.kind(name) else np.dtype(np.float32)

    def constant(self, node: onnx.NodeProto, at: int) -> np.ndarray | None:
        """The input at ``at`` if that is there and constant."""
        return self.constants.get(node.input[at]) if at < len(node.input) and node.input[at] else None

    def has(self, node: onnx.NodeProto, at: int) -> bool:
        return at < len(node.input) and bool(node.input[at])

    def refusal(self, node: onnx.NodeProto, why: str) -> EdgeEmoError:
        return EdgeEmoError(f"{self.source}: node {label(node)} ({node.op_type}): {why}")


Lowering = Callable[[onnx.NodeProto, Context, Maker], bool]


def static(shape: Shape) -> tuple[int, ...] | None:
    """``shape`` with -1 for the batch; None where more than one dimension has no size."""
    found = tuple(d if isinstance(d, int) else -1 for d in shape)
    return found if found.count(-1) <= 1 else None
