"""Constants that a file stores in eight bits or fewer, between DequantizeLinear and its initializers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgeemo.onnxlib.graph import attributes

INTEGERS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
FLOAT8 = (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ)


@dataclass(frozen=True)
class Stored:
    """A constant as integers (int32) or float8's values (float32), its zero point taken off already, and its float32 scales: one
    for all, or one for each index of ``axis`` or for each ``block`` of them."""

    kind: int  # in the file, of INTEGERS or FLOAT8
    values: np.ndarray
    has_zero_point: bool
    scales: np.ndarray
    axis: int
    block: int  # 0: none

    def floats(self) -> np.ndarray:
        return (self.values * _spread(self.scales, self.values.shape, self.axis, self.block)).astype(np.float32)


def stored(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Stored | None:
    """The constant that a DequantizeLinear is of; None where it is of none, of another type, or of sizes that do not fit."""
    if node.op_type != "DequantizeLinear":
        return None
    value, scale, *zeros = (constants.get(name) for name in node.input if name)
    if value is None or scale is None or None in zeros:
        return None
    if value.data_type not in (*INTEGERS, *FLOAT8) or scale.data_type != TensorProto.FLOAT:
        return None
    options, scales = attributes(node), numpy_helper.to_array(scale)
    axis, block = options.get("axis", 1), options.get("block_size", 0)
    values = numpy_helper.to_array(value).astype(np.float32 if value.data_type in FLOAT8 else np.int32)
    try:
        _spread(scales, values.shape, axis, block)
        if not zeros or zeros[0] is None or value.data_type in FLOAT8:  # whose zero points are 0
            return Stored(value.data_type, values, False, scales, axis, block)
        zero = numpy_helper.to_array(zeros[0]).astype(np.int32)
        return Stored(value.data_type, values - _spread(zero, values.shape, axis, block), bool(zero.any()), scales, axis, block)
    except (ValueError, IndexError):
        return None


def dequantized(model: onnx.ModelProto, names: set[str]) -> dict[str, np.ndarray]:
    """Those of ``names`` that are dequantized constants, with their values: for what takes no weights but floats."""
    constants = {i.name: i for i in model.graph.initializer}
    found = {n.output[0]: stored(n, constants) for n in model.graph.node if names & set(n.output)}
    return {name: constant.floats() for name, constant in found.items() if constant is not None}


def _spread(values: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """Scales or zero points as they lie over a tensor. Raises ValueError or IndexError where they do not fit it."""
    if values.size == 1:
        return values.reshape(())
    axis = range(len(shape))[axis]
    if block:
        if values.shape != tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape)):
            raise ValueError(f"{values.shape} blocks of {block} over {shape}")
        return np.repeat(values, block, axis).take(range(shape[axis]), axis)
    return np.broadcast_to(values.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)
