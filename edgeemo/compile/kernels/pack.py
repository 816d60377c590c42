"""Weights and per-column values in the order that the matrix product kernels read them (kernels/gemm.py)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets.capabilities import COLUMNS_S8, K_S8, QUAD_K_S8, WINOGRAD_K_S8, round_up


def pack_s8(w: np.ndarray, run: int = K_S8) -> np.ndarray:
    """w (groups, taps, tap_k, group_n) int8 to (groups, n/4, taps * tap_k/run, 4, run), columns padded with zeros.

    Raises ValueError where tap_k is no multiple of ``run``.
    """
    groups, taps, tap_k, n = w.shape
    if tap_k % run:
        raise ValueError(f"int8 kernel needs a reduction length in multiples of {run}, got {tap_k}")
    padded = np.zeros((groups, taps, tap_k, round_up(n, COLUMNS_S8)), dtype=np.int8)
    padded[..., :n] = w
    tiles = padded.reshape(groups, taps, tap_k // run, run, -1, COLUMNS_S8)
    return np.ascontiguousarray(tiles.transpose(0, 4, 1, 2, 5, 3))


def pack_s8_winograd(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For Winograd's product: w packed by runs of 32 k, and sum w0 w1 of every packed column (int32)."""
    packed = pack_s8(w, WINOGRAD_K_S8)
    halves = packed.astype(np.int32)
    terms = (halves[..., :K_S8] * halves[..., K_S8:]).sum(axis=(2, 3, 5), dtype=np.int32)
    return packed, terms.ravel()


def pack_s8_quads(w: np.ndarray, columns: int) -> np.ndarray:
    """w (groups, taps, tap_k, group_n) int8 to one run per group and column tile: (taps * tap_k / 4, width, 4)."""
    groups, taps, tap_k, n = w.shape
    flat = np.zeros((groups, taps * tap_k // QUAD_K_S8, QUAD_K_S8, round_up(n, COLUMNS_S8)), dtype=np.int8)
    flat[..., :n] = w.reshape(groups, -1, QUAD_K_S8, n)
    tiles = [(g, start, width) for g in range(groups) for start, width in column_tiles(n, columns)]
    return np.concatenate([flat[g, ..., start : start + width].transpose(0, 2, 1).ravel() for g, start, width in tiles])


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
    """Sparse form of w (k, n) float32 in which every column tile keeps only the k at which it has a weight: counts per tile, the
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


def pack_weights(spec: Gemm, w: np.ndarray, columns: int) -> tuple[Gemm, list[np.ndarray]]:
    """w (groups, taps, tap_k, group_n) as the spec's micro-kernel reads it: the weights, then its index or offsets where it has
    any. ``columns`` of a tile. The spec gets the k that are stored where most of a float matrix is zero."""
    if spec.winograd:
        packed, offset = pack_s8_winograd(w)
        return spec, [packed.reshape(-1), offset]
    if spec.sdot:
        return spec, [pack_s8_quads(w, columns)]
    if spec.kind == "s8":
        return spec, [pack_s8(w).reshape(-1)]
    if spec.kind == "f32" and spec.taps == spec.groups == 1 and (sparse := sparse_rows(w[0, 0], columns)) is not None:
        counts, index, packed = sparse
        return replace(spec, nonzero_k=counts), [packed.reshape(-1), index]
    return spec, [pack_float(w, columns).reshape(-1)]
