"""Layers that kernels take, and the range of values that they need: asked by quantize, analyze and the passes alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

COLUMNS_S8 = 4
K_S8 = 16
GROUP_S8 = 4  # channels of a group from which on int8 products are worth their filling up
QUAD_K_S8 = 4  # k of a column in a lane of a dot product
WINOGRAD_K_S8 = 32
INT8_MAX = 127
CHANNELS_S8 = 8  # of the least vector of a depthwise kernel
LANES_F16 = 8
CHUNK_K_F16 = 128  # products that are summed in halves
ROW_PEAK_F16 = 16  # of activations as halves, a power of two
F16_MAX = 65504


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def convolution_fits(kind: str, groups: int, tap_k: int, dilations: Sequence[int]) -> bool:
    """Whether kernels of this type (s8, f16, f32) take a convolution of ``tap_k`` channels per group, ``dilations`` by dimension.
    Of fewer channels per group there is more to fill up than to multiply."""
    few = groups > 1 and (tap_k < GROUP_S8 if kind == "s8" else len(dilations) == 2 and tap_k < 2)
    return len(dilations) in (1, 2) and not few


def reduction_run(kind: str, groups: int, tap_k: int, window: Sequence[int]) -> int:
    """How many elements of the reduction lie side by side in what such a kernel reads: ``window`` of a convolution, by dimension,
    whose rows it may take whole (patterns/convolution.py). () of a matrix product."""
    whole = len(window) == 2 or (len(window) == 1 and kind == "s8" and tap_k % K_S8)
    return round_up(tap_k * (window[-1] if whole else 1), K_S8 if kind == "s8" else 1)


def depthwise_fits(kind: str, groups: int, shape: Sequence[int]) -> bool:
    """Whether a depthwise kernel takes a convolution with weights of ``shape`` (channels out, 1, window)."""
    least = {"f32": 2, "s8": CHANNELS_S8}.get(kind)
    return least is not None and groups > 1 and shape[0] >= least and shape[1] == 1 and len(shape) in (3, 4)


def winograd_fits(w: np.ndarray, largest: int) -> bool:
    """Whether the sum of any weight, w (groups, taps, tap_k, group_n), and any activation of up to ``largest`` is an int8."""
    return w.shape[2] % WINOGRAD_K_S8 == 0 and largest + int(np.abs(w.astype(np.int16)).max(initial=0)) <= INT8_MAX


def pairs_fit(w: np.ndarray, largest: int) -> bool:
    """Whether the sum of any two products of int8 is an int16: of -128 and -128 twice it is not."""
    return int(w.min(initial=0)) >= -INT8_MAX


def halves_fit(w: np.ndarray, largest: int) -> bool:
    """Whether no sum in halves overflows, w (groups, taps, tap_k, group_n), and channels and columns come in eights."""
    eights = w.shape[2] % LANES_F16 == 0 and w.shape[3] % LANES_F16 == 0
    return eights and float(np.abs(w.astype(np.float32)).max(initial=0)) * CHUNK_K_F16 * ROW_PEAK_F16 <= F16_MAX


def _any(weight: np.ndarray, qmax: int) -> bool:
    return True


@dataclass(frozen=True)
class MicroKernel:
    """An inner loop of matrix products. ``accepts``: whether it computes a layer with weights (groups, taps, tap_k, group_n) and
    activations up to ``qmax``."""

    kind: str  # of the weights: s8, f16, f32
    accepts: Callable[[np.ndarray, int], bool] = _any
    tile: tuple[int, int] | None = None  # rows x columns; None: the target's, of its kind

    @property
    def plain(self) -> bool:
        """Whether it takes every layer of its kind."""
        return self.accepts is _any


WINOGRAD = "qs8_neon_winograd_4x4c32"
SDOT = "qs8_neon_sdot_8x8c4"
PORTABLE_S8 = "qs8_portable_4x4c16"
FMLA_F16 = "f16_neon_fmla_4x32"
MICROKERNELS = {
    SDOT: MicroKernel("s8", tile=(8, 8)),
    WINOGRAD: MicroKernel("s8", winograd_fits),
    "qs8_neon_mlal_4x4c16": MicroKernel("s8", pairs_fit),
    PORTABLE_S8: MicroKernel("s8"),
    FMLA_F16: MicroKernel("f16", halves_fit, (4, 32)),
    "f16_outer_product": MicroKernel("f16"),
    "f32_outer_product": MicroKernel("f32"),
}


def select_microkernel(wanted: Sequence[str], kind: str, weight: np.ndarray, qmax: int) -> str:
    """The first of a target's ``wanted`` names that computes a layer. Raises ValueError where none does."""
    for name in wanted:
        if MICROKERNELS[name].kind == kind and MICROKERNELS[name].accepts(weight, qmax):
            return name
    raise ValueError(f"the target lists no micro-kernel for {kind} weights of {weight.shape}")
