"""INT8 kernels for the board, each by itself on the emulated core: exact over shapes that fit no tile, and their epilogues."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeemo.compile.codegen.assembly import finish
from edgeemo.compile.codegen.functions import build_functions
from edgeemo.compile.codegen.link import assemble, link_shared
from edgeemo.compile.kernels import depthwise, gemm, pack
from edgeemo.targets import capabilities
from edgeemo.targets.board import BoardTarget, load_target
from tests.aarch64 import board
from tests.compile.test_kernels import CASES, Case, depthwise_inputs, inputs, with_caller
from tests.compile.test_least_weights import least_products

pytestmark = [pytest.mark.slow, pytest.mark.qemu, pytest.mark.skipif(not board.available(), reason=board.REASON)]
BOARD = load_target("aarch64-neon")

# Besides the host's: one chunk, no loop, a loop of one and of several turns, by taps and groups, tiles of 4 and of 3
# rows in one stream, columns beyond the last whole tile.
BOARD_CASES = [
    *CASES,
    Case(1, 1, 256, 24),
    Case(3, 1, 256, 20),
    Case(1, 1, 1792, 8),
    Case(7, 3, 64, 12, stride=2),
    Case(3, 3, 256, 8),
    Case(3, 3, 128, 16, groups=2),
    Case(9, 1, 144, 10),
    Case(4, 3, 48, 12, groups=3),
    Case(3, 1, 128, 8, stride=2),  # more rows than turns
    Case(67, 1, 256, 20),  # the last tile computes rows again
    Case(10, 3, 256, 8),  # a loop over tiles, and two rows
]

SCRIPT = """
import sys
import numpy as np, tvm_ffi
from edgeemo_runtime.memory import aligned_zeros
run = tvm_ffi.load_module(sys.argv[1])["run"]
with np.load(sys.argv[2]) as file:
    arrays = [file[f"x{i}"] for i in range(len(file) - 1)]
    batch = int(file["batch"])
copies = []
for a in arrays:
    copy = aligned_zeros((max(1, a.size),), a.dtype)
    copy[: a.size] = a.ravel()
    copies.append(copy)
run(batch, *map(tvm_ffi.from_dlpack, copies))
np.save(sys.argv[3], copies[-1])
"""


def run_on_board(function: Any, batch: int, arrays: list[np.ndarray], target: BoardTarget = BOARD) -> np.ndarray:
    """The last array as a kernel, built as the step is, leaves it."""
    with tempfile.TemporaryDirectory() as folder:
        objects, library = Path(folder, "k.o"), Path(folder, "k.so")
        module = build_functions(with_caller(function, arrays), target)
        assemble(finish(module.inspect_source("asm")), objects, target)
        link_shared(objects, library, target)
        np.savez(Path(folder, "in.npz"), batch=batch, **{f"x{i}": a for i, a in enumerate(arrays)})  # type: ignore[arg-type]
        Path(folder, "run.py").write_text(SCRIPT)
        done = board.run([os.path.join(folder, name) for name in ("run.py", "k.so", "in.npz", "out.npy")], cpu=target.cpu)
        assert done.returncode == 0, done.stderr.decode()
        return np.load(Path(folder, "out.npy"))


@pytest.mark.parametrize("case", BOARD_CASES, ids=str)
def test_int8_product_is_exact(case: Case) -> None:
    batch = 5
    spec, a, w, expected = inputs(case, batch, np.random.default_rng(1), integer=True)
    out = np.full((batch, case.rows, case.n), np.nan, dtype=np.float32)
    scale = pack.pad_columns(np.ones(case.n), case.groups)
    got = run_on_board(gemm.build(spec, BOARD.kernels), batch, [a, pack.pack_s8(w), scale, out])
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)


@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[5], Case(9, 1, 144, 10)], ids=str)
@pytest.mark.parametrize("name", ["aarch64-neon", "pi3", "pi5"])
def test_weights_of_minus_128_are_exact(case: Case, name: str) -> None:
    """By the micro-kernel that a target has for them: products of pairs would overflow int16."""
    batch, target = 5, load_target(name)
    spec, a, w, expected = least_products(case, batch)
    chosen = capabilities.select_microkernel(target.kernels.microkernels, "s8", w, capabilities.INT8_MAX)
    spec = replace(spec, microkernel=chosen)
    _, [packed] = pack.pack_weights(spec, w, target.kernels.tile("s8", chosen)[1])
    out = np.full((batch, case.rows, case.n), np.nan, dtype=np.float32)
    scale = pack.pad_columns(np.ones(case.n), case.groups)
    got = run_on_board(gemm.build(spec, target.kernels), batch, [a, packed, scale, out], target)
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)


# Those with enough channels, and more tiles of rows than have their terms kept, over two blocks of columns; rows in
# threes.
PAIR_CASES = [*(c for c in BOARD_CASES if c.tap_k % capabilities.WINOGRAD_K_S8 == 0), Case(20, 1, 64, 512), Case(3, 1, 1024, 32)]


@pytest.mark.parametrize("case", PAIR_CASES, ids=str)
@pytest.mark.parametrize("qmax", [80, 64])
def test_int8_product_in_pairs_is_exact(case: Case, qmax: int) -> None:
    """With half the multiplications, to the ends of what an activation and a weight may be together."""
    batch = 5
    spec, a, w, expected = inputs(case, batch, np.random.default_rng(1), integer=True, qmax=(qmax, 127 - qmax))
    assert capabilities.winograd_fits(w, qmax)
    packed, offset = pack.pack_s8_winograd(w)
    out = np.full((batch, case.rows, case.n), np.nan, dtype=np.float32)
    scale = pack.pad_columns(np.ones(case.n), case.groups)
    built = gemm.build(replace(spec, microkernel=capabilities.WINOGRAD), BOARD.kernels)
    got = run_on_board(built, batch, [a, packed, offset, scale, out])
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)


@pytest.mark.parametrize(("channels", "window"), [(29, (3, 3)), (11, (1, 7)), (24, (2, 1))])
def test_int8_depthwise_is_exact(channels: int, window: tuple[int, int]) -> None:
    spec, arrays, expected = depthwise_inputs(channels, window)
    got = run_on_board(depthwise.build(spec, BOARD.kernels), 2, arrays)
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)


def gelu(x: np.ndarray) -> np.ndarray:
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


DEFINED = {
    "gelu": gelu,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "relu6": lambda x: np.clip(x, 0, 6),
}
EPILOGUES = [  # the last one's products are too few to have an epilogue among them
    *((Case(1, 1, 256, 24), 6, name) for name in DEFINED),
    *((case, batch, "gelu") for case in (Case(7, 3, 64, 12, stride=2), Case(3, 1, 512, 16)) for batch in (1, 6)),
    *((Case(5, 1, 32, 20), 3, name) for name in ("silu", "hard_swish")),
]


@pytest.mark.parametrize(("case", "batch", "activation"), EPILOGUES, ids=str)
def test_epilogue_is_that_of_the_definition(case: Case, batch: int, activation: str) -> None:
    """Bias, activation, requantization: within one of the definition, and equal to the bit whatever tile a row is in."""
    rng = np.random.default_rng(3)
    spec, a, w, exact = inputs(case, batch, rng, integer=True)
    spec = replace(spec, bias=True, activation=activation, quantize=True)
    scale, bias = rng.uniform(1e-5, 3e-5, case.n).astype(np.float32), rng.standard_normal(case.n).astype(np.float32)
    inverse = np.full(1, 40.0, dtype=np.float32)
    out = np.zeros((batch, case.rows, case.n), dtype=np.int8)
    columns = [pack.pad_columns(v, case.groups) for v in (scale, bias)]
    got = run_on_board(gemm.build(spec, BOARD.kernels), batch, [a, pack.pack_s8(w), *columns, inverse, out]).reshape(out.shape)
    x = exact * scale.astype(np.float64) + bias
    defined = np.clip(np.rint(40.0 * DEFINED[activation](x)), -128, 127)
    assert np.abs(got - defined).max() <= 1
    assert (got == defined).mean() > 0.98
    alone = run_on_board(gemm.build(spec, BOARD.kernels), 1, [a[:1], pack.pack_s8(w), *columns, inverse, out[:1]]).reshape(
        out[:1].shape
    )
    np.testing.assert_array_equal(got[:1], alone)


@pytest.mark.parametrize("case", BOARD_CASES, ids=str)
@pytest.mark.parametrize("quantize", [False, True])
def test_int8_product_by_dot_products_is_exact(case: Case, quantize: bool) -> None:
    """On a Cortex-A76; the full range of activations."""
    batch, target = 5, load_target("pi5")
    spec, a, w, expected = inputs(case, batch, np.random.default_rng(1), integer=True)
    assert a.min() == -128
    scale = pack.pad_columns(np.ones(case.n), case.groups)
    spec = replace(spec, microkernel=capabilities.SDOT, quantize=quantize)
    _, [packed] = pack.pack_weights(spec, w, 8)
    arrays = [a, packed, scale, np.full((batch, case.rows, case.n), np.nan, dtype=np.float32)]
    if quantize:
        arrays[3:] = [np.full(1, 2.0**-10, dtype=np.float32), np.zeros((batch, case.rows, case.n), dtype=np.int8)]
        expected = np.clip(np.rint(expected / 1024), -128, 127)
    got = run_on_board(gemm.build(spec, target.kernels), batch, arrays, target)
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)


def windows_of(a: np.ndarray, case: Case) -> np.ndarray:
    """Activations that each row reads: (batch, rows, taps, groups, k)."""
    runs = [a[:, tap : tap + (case.rows - 1) * case.stride + 1 : case.stride] for tap in range(case.taps)]
    return np.stack(runs, axis=2).reshape(len(a), case.rows, case.taps, case.groups, -1)


def half_product(a: np.ndarray, w: np.ndarray, case: Case) -> np.ndarray:
    """The definition of f16_neon_fmla_4x32: rows brought into range, sums rounded to halves, added in float32 chunk by chunk."""
    out = np.zeros((len(a), case.rows, case.groups, case.n // case.groups), dtype=np.float32)
    windows = windows_of(a, case)
    largest = np.maximum(np.abs(windows).max(axis=(2, 4), keepdims=True).astype(np.float64), 2.0**-119)
    factor = 2.0 ** (np.floor(np.log2(largest)) + 1) / capabilities.ROW_PEAK_F16
    halves = (windows / factor).astype(np.float32).astype(np.float16).astype(np.float64)
    chunk = capabilities.CHUNK_K_F16
    for tap in range(case.taps):
        for first in range(0, case.tap_k, chunk):
            sums = np.zeros(out.shape, dtype=np.float16)
            for k in range(first, min(first + chunk, case.tap_k)):
                products = halves[:, :, tap, :, k, None] * w[:, tap, k].astype(np.float64)
                sums = (sums.astype(np.float64) + products).astype(np.float16)
            out = (out + sums.astype(np.float64) * factor[:, :, 0]).astype(np.float32)
    return out.reshape(len(a), case.rows, case.n)


HALF_CASES = [
    Case(1, 1, 128, 8),
    Case(4, 1, 384, 96),
    Case(3, 3, 72, 40, stride=2),  # columns beyond the last whole tile
    Case(2, 1, 1040, 32),  # a last chunk that is shorter
    Case(5, 3, 32, 16, groups=2),
    Case(20, 1, 64, 128),  # more tiles of rows than have their factors kept
]


@pytest.mark.parametrize("case", HALF_CASES, ids=str)
def test_product_in_halves_is_that_of_the_definition(case: Case) -> None:
    """On a Cortex-A76, to the bit, whatever size a row's activations have; as near as halves are."""
    batch, target, rng = 4, load_target("pi5"), np.random.default_rng(1)
    spec, a, w, _ = inputs(case, batch, rng, integer=False)
    a *= 10.0 ** rng.integers(-3, 4, (batch, 1, 1)).astype(np.float32)
    a[0] *= np.float32(1e30)
    a[1] *= np.float32(1e-30)
    a[2, -1] = 0
    half = w.astype(np.float16)
    assert capabilities.halves_fit(half, capabilities.INT8_MAX)
    out = np.full((batch, case.rows, case.n), np.nan, dtype=np.float32)
    spec = replace(spec, kind="f16", microkernel=capabilities.FMLA_F16)
    got = run_on_board(gemm.build(spec, target.kernels), batch, [a, pack.pack_float(half, 32), out], target).reshape(out.shape)
    np.testing.assert_array_equal(got, half_product(a, half, case))
    exact = np.einsum("brtgk,gtkn->brgn", windows_of(a, case).astype(np.float64), half.astype(np.float64)).reshape(out.shape)
    assert (np.abs(got - exact).max(axis=2) <= 0.01 * np.abs(exact).max(axis=2)).all()


def test_a_row_that_is_not_finite_is_not_so_alone() -> None:
    """NaN and infinity come out as what they are, and stay in their row."""
    batch, target, case = 4, load_target("pi5"), Case(1, 1, 64, 32)
    spec, a, w, _ = inputs(case, batch, np.random.default_rng(1), integer=False)
    half, spec = w.astype(np.float16), replace(spec, kind="f16", microkernel=capabilities.FMLA_F16)
    expected = half_product(a, half, case)
    a[1, 0, 3], a[2, 0, 5] = np.nan, np.inf
    out = np.zeros((batch, 1, 32), dtype=np.float32)
    got = run_on_board(gemm.build(spec, target.kernels), batch, [a, pack.pack_float(half, 32), out], target).reshape(out.shape)
    np.testing.assert_array_equal(got[[0, 3]], expected[[0, 3]])
    assert np.isnan(got[1]).all() and not np.isfinite(got[2]).any()
