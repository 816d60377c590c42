"""Weights of ONNX Runtime's MatMulNBits: two, four or eight bits, packed low bits first, with scales by blocks of the reduction.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits
"""

from __future__ import annotations

import numpy as np


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Bytes (..., n) as their fields, low bits first: (..., n * 8 / bits) uint8."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return fields.reshape(*packed.shape[:-1], -1).astype(np.uint8)


def block_weights(
    packed: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, shape: tuple[int, int], bits: int, block: int
) -> np.ndarray:
    """Weights (k, n) float32 of ``shape``. ``packed``: (n, blocks, block * bits / 8) uint8; ``scales``: of each block; ``zeros``:
    zero points, packed (uint8) or one by one, None where they are the middle. Raises ValueError where sizes do not fit."""
    if bits not in (2, 4, 8) or block <= 0:
        raise ValueError(f"{bits} bits in blocks of {block}")
    k, n = shape
    blocks = -(-k // block)
    codes = unpacked(packed.reshape(n, blocks, -1), bits)
    points: np.ndarray = np.full((n, blocks), 1 << (bits - 1), dtype=np.float32)
    if zeros is not None:
        whole = unpacked(zeros.reshape(n, -1), bits)[:, :blocks] if zeros.dtype == np.uint8 else zeros.reshape(n, blocks)
        points = whole.astype(np.float32)
    values = (codes.astype(np.float32) - points[..., None]) * scales.astype(np.float32).reshape(n, blocks, 1)
    if values.shape[2] != block:
        raise ValueError(f"blocks of {block} weights have {values.shape[2]}")
    return np.ascontiguousarray(values.reshape(n, -1)[:, :k].T)
