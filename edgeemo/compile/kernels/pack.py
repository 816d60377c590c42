"""Weights and per-column values in the order that the matrix product kernels read them (kernels/gemm.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COLUMNS_S8 = 4
K_S8 = 16
PAIR_S8 = 32
INT8_MAX = 127
CHANNELS_S8 = 8  # of the least vector of a depthwise kernel


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def convolution_fits(kind: str, groups: int, tap_k: int, dilations: Sequence[int]) -> bool:
    """Whether kernels of this type (s8, f16, f32) take a convolution of ``tap_k`` channels per group, ``dilations`` by dimension.
    Over two, a window's columns lie side by side: a row of it is one run of elements."""
    if len(dilations) == 1:
        return groups == 1 or kind != "s8" or tap_k % K_S8 == 0
    return len(dilations) == 2 and groups == 1 and dilations[1] == 1


def reduction_run(kind: str, groups: int, tap_k: int, window: Sequence[int]) -> int:
    """How many elements of the reduction lie side by side in what such a kernel reads: ``window`` of a convolution, by dimension,
    whose rows it may take whole (passes/convolution.py). () of a matrix product."""
    whole = len(window) == 2 or (len(window) == 1 and kind == "s8" and tap_k % K_S8 and groups == 1)
    return round_up(tap_k * (window[-1] if whole else 1), K_S8 if kind == "s8" else 1)


def depthwise_fits(kind: str, groups: int, shape: Sequence[int]) -> bool:
    """Whether a depthwise kernel takes a convolution with weights of ``shape`` (channels, 1, window)."""
    least = {"f32": 2, "s8": CHANNELS_S8}.get(kind)
    return least is not None and shape[0] == groups >= least and shape[1] == 1 and len(shape) in (3, 4)


def pack_s8(w: np.ndarray, run: int = K_S8) -> np.ndarray:
    """w (groups, taps, tap_k, group_n) int8 to (groups, n/4, taps * tap_k/run, 4, run), columns padded with zeros.

    Raises ValueError where the kernel could not be exact: tap_k not a multiple of ``run``, or a weight of -128.
    """
    groups, taps, tap_k, n = w.shape
    if tap_k % run:
        raise ValueError(f"int8 kernel needs a reduction length in multiples of {run}, got {tap_k}")
    if w.min(initial=0) < -127:
        raise ValueError("int8 weights must lie in [-127, 127]")
    padded = np.zeros((groups, taps, tap_k, round_up(n, COLUMNS_S8)), dtype=np.int8)
    padded[..., :n] = w
    tiles = padded.reshape(groups, taps, tap_k // run, run, -1, COLUMNS_S8)
    return np.ascontiguousarray(tiles.transpose(0, 4, 1, 2, 5, 3))


def pack_s8_pairs(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For products in pairs (kernels/micro_s8.py): w packed by runs of 32 k, and sum w0 w1 of every packed column (int32)."""
    packed = pack_s8(w, PAIR_S8)
    halves = packed.astype(np.int32)
    terms = (halves[..., :K_S8] * halves[..., K_S8:]).sum(axis=(2, 3, 5), dtype=np.int32)
    return packed, terms.ravel()


def pairs_fit(w: np.ndarray, largest: int) -> bool:
    """Whether the sum of any weight, w (groups, taps, tap_k, group_n), and any activation of up to ``largest`` is an int8."""
    return w.shape[2] % PAIR_S8 == 0 and largest + int(np.abs(w.astype(np.int16)).max(initial=0)) <= INT8_MAX


def column_tiles(n: int, width: int) -> list[tuple[int, int]]:
    """(first column, width) of a kernel's tiles: as wide as given, then one of what is left rounded up to 4."""
    whole = n // width * width
    tiles = [(start, width) for start in range(0, whole, width)]
    return [*tiles, (whole, round_up(n - whole, 4))] if n > whole else tiles


def pack_float(w: np.ndarray, columns: int) -> np.ndarray:
    """w (groups, taps, tap_k, group_n) float32 or float16 to one run per group and column tile: (taps * tap_k, width)."""
    groups, taps, tap_k, n = w.shape
    flat = np.zeros((groups, taps * tap_k, round_up(n, 4)), dtype=w.dtype)
    flat[..., :n] = w.reshape(groups, taps * tap_k, n)
    runs = [flat[g, :, start : start + width].ravel() for g in range(groups) for start, width in column_tiles(n, columns)]
    return np.concatenate(runs)


def sparse_rows(w: np.ndarray, columns: int) -> tuple[tuple[int, ...], np.ndarray, np.ndarray] | None:
    """What is left of w (k, n) float32 when every column tile keeps only the k at which it has a weight: counts per tile, the
    kept k one tile after another (int32), and the packed weights. None where that would not leave out half of them.

    A filterbank is such a matrix: a few neighbouring bands have no weight at most bins.
    """
    tiles = column_tiles(w.shape[1], columns)
    kept = [np.flatnonzero(w[:, start : start + width].any(axis=1)) for start, width in tiles]
    if 2 * sum(len(k) * width for k, (_, width) in zip(kept, tiles, strict=True)) > w.shape[0] * round_up(w.shape[1], 4):
        return None
    padded = np.pad(w, ((0, 0), (0, round_up(w.shape[1], 4) - w.shape[1])))
    runs = [padded[k, start : start + width].ravel() for k, (start, width) in zip(kept, tiles, strict=True)]
    return tuple(len(k) for k in kept), np.concatenate(kept).astype(np.int32), np.concatenate(runs)


def pad_columns(values: np.ndarray, groups: int) -> np.ndarray:
    """Per-column float32 values (n,) with each group padded to a multiple of 4, as the epilogue reads them."""
    values = values.astype(np.float32).reshape(groups, -1)
    out = np.zeros((groups, round_up(values.shape[1], 4)), dtype=np.float32)
    out[:, : values.shape[1]] = values
    return out.ravel()
