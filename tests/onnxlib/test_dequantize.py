"""Dequantized constants: sizes that do not fit are left to whoever reads the file next."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgeemo.onnxlib.dequantize import Stored, stored


def read(values: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, **options: int) -> Stored | None:
    held = {"w": values, "s": scale} | ({} if zero is None else {"z": zero})
    node = helper.make_node("DequantizeLinear", list(held), ["y"], **options)
    return stored(node, {name: numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()})


def test_values_are_scales_times_what_is_left_of_the_zero_point() -> None:
    values = np.array([[0, 255], [128, 7]], np.uint8)
    constant = read(values, np.array([0.5, 2.0], np.float32), np.array([128, 7], np.uint8), axis=0)
    assert constant is not None and constant.has_zero_point
    np.testing.assert_array_equal(constant.floats(), [[-64.0, 63.5], [242.0, 0.0]])
    blocks = read(values, np.array([[1.0, 2.0]], np.float32), axis=0, block_size=2)
    assert blocks is not None and not blocks.has_zero_point
    np.testing.assert_array_equal(blocks.floats(), [[0.0, 510.0], [128.0, 14.0]])


@pytest.mark.parametrize(
    ("scales", "options"),
    [((3,), {"axis": 0}), ((2,), {"axis": 5}), ((2, 2), {"axis": 0}), ((1, 3), {"axis": 0, "block_size": 2})],
)
def test_sizes_that_do_not_fit(scales: tuple[int, ...], options: dict[str, int]) -> None:
    assert read(np.zeros((2, 2), np.int8), np.ones(scales, np.float32), **options) is None
    assert read(np.zeros((2, 2), np.int8), np.float32(1), np.zeros(scales, np.int8), **options) is None


def test_nodes_of_anything_else() -> None:
    assert stored(helper.make_node("Relu", ["x"], ["y"]), {}) is None
    assert read(np.zeros((2, 2), np.int32), np.float32(1)) is None
    assert read(np.zeros((2, 2), np.int8), np.float16(1)) is None
