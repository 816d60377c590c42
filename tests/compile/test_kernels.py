"""Kernels alone, on this machine: against numpy, exactly for integers, over shapes that do not fit the tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from edgeemo_runtime.memory import aligned_zeros
from tvm import ir
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.codegen import math_intrinsics as lower_math
from edgeemo.compile.codegen.functions import build_functions
from edgeemo.compile.kernels import depthwise, gemm, layer_norm, pack
from edgeemo.compile.kernels.attention.qs8 import OVER_READ, WEIGHT_ONE, AttentionInt8
from edgeemo.compile.kernels.attention.qs8 import build as build_attention_int8
from edgeemo.compile.kernels.builder import kernel
from edgeemo.compile.kernels.interleave import InRegisters, round_robin
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.compile.kernels.vector_math import exact_gelu4, exp4, gelu4
from edgeemo.targets.board import load_target

HOST = load_target("host").kernels


def with_caller(function: Any, arrays: list[np.ndarray]) -> tvm.IRModule:
    """A module with a private kernel and a public ``run(batch, arrays...)`` that calls it."""
    symbol = ir.GlobalVar("kernel")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("run")
        n = T.arg("n", T.int64())
        buffers = [T.arg(f"x{i}", T.buffer((max(1, a.size),), str(a.dtype))) for i, a in enumerate(arrays)]
        args = [T.Cast("int32", n), *(b.access_ptr("rw") for b in buffers)]
        T.evaluate(ir.Call(symbol, args, ret_ty=ir.PrimType("int32")))
    return tvm.IRModule({symbol: function, ir.GlobalVar("run"): builder.get()})


def build(function: Any, arrays: list[np.ndarray]) -> Any:
    return build_functions(with_caller(function, arrays), load_target("host"))


def call(function: Any, batch: int, arrays: list[np.ndarray], built: Any = None) -> None:
    """Runs a kernel on this machine; the arrays hold what it wrote. ``built`` for one that is called again."""
    built = built or build(function, arrays)
    aligned = []
    for a in arrays:
        copy = aligned_zeros((max(1, a.size),), a.dtype)
        copy[: a.size] = a.ravel()
        aligned.append(copy)
    built["run"](batch, *[tvm_ffi.from_dlpack(a) for a in aligned])
    for a, c in zip(arrays, aligned, strict=True):
        a.ravel()[...] = c[: a.size]


@dataclass
class Case:
    rows: int
    taps: int
    tap_k: int
    n: int
    groups: int = 1
    stride: int = 1


def inputs(
    case: Case, batch: int, rng: np.random.Generator, integer: bool, qmax: tuple[int, int] = (127, 127)
) -> tuple[Gemm, np.ndarray, np.ndarray, np.ndarray]:
    """(spec without epilogue, a (batch, time, channels), w (groups, taps, tap_k, group_n), float64 or int64 result). ``qmax``
    magnitudes of integers, of a and of w; of all int8 a may be -128, too."""
    channels = case.tap_k * case.groups
    time = (case.rows - 1) * case.stride + case.taps
    if integer:
        least = -128 if qmax[0] == 127 else -qmax[0]
        a = rng.integers(least, qmax[0] + 1, (batch, time, channels)).astype(np.int8)
        w = rng.integers(-qmax[1], qmax[1] + 1, (case.groups, case.taps, case.tap_k, case.n // case.groups)).astype(np.int8)
        a.ravel()[:64], w.ravel()[:64] = least, qmax[1]  # the corner that would overflow an int16 pair sum
        a.ravel()[-64:], w.ravel()[-64:] = least, -qmax[1]
        exact: Any = np.int64
    else:
        a = rng.standard_normal((batch, time, channels)).astype(np.float32)
        w = rng.standard_normal((case.groups, case.taps, case.tap_k, case.n // case.groups)).astype(np.float32)
        exact = np.float64
    out = np.zeros((batch, case.rows, case.groups, case.n // case.groups), dtype=exact)
    for tap in range(case.taps):
        rows = a[:, tap : tap + (case.rows - 1) * case.stride + 1 : case.stride].reshape(batch, case.rows, case.groups, -1)
        out += np.einsum("brgk,gkn->brgn", rows.astype(exact), w[:, tap].astype(exact))
    kind = "s8" if integer else "f32"
    spec = Gemm(kind, case.rows, case.taps, case.tap_k, channels, channels * case.stride, channels * time, case.n, case.groups)
    return spec, a, w, out.reshape(batch, case.rows, case.n)


CASES = [
    Case(1, 1, 16, 4),
    Case(3, 1, 32, 8),
    Case(1, 1, 64, 7),  # columns that fill no tile
    Case(5, 1, 16, 20),
    Case(7, 3, 16, 12, stride=2),
    Case(3, 3, 32, 16, groups=2),
    Case(65, 1, 16, 8),  # the last tile computes rows again
    Case(11, 3, 16, 8),
]


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_int8_product_is_exact(case: Case, batch: int) -> None:
    rng = np.random.default_rng(1)
    spec, a, w, expected = inputs(case, batch, rng, integer=True)
    out = np.zeros((batch, case.rows, case.n), dtype=np.float32)
    scale = pack.pad_columns(np.ones(case.n), case.groups)
    call(gemm.build(spec, HOST), batch, [a, pack.pack_s8(w), scale, out])
    np.testing.assert_array_equal(out.astype(np.int64), expected)


def depthwise_inputs(channels: int, window: tuple[int, int]) -> tuple[depthwise.Depthwise, list[np.ndarray], np.ndarray]:
    """(spec, arrays of the kernel, int64 result) of two images."""
    rng = np.random.default_rng(7)
    out, strides, dilations = (3, 6), (2, 1), (1, 2)
    size = [(o - 1) * s + (w - 1) * d + 1 for o, s, w, d in zip(out, strides, window, dilations, strict=True)]
    a = rng.integers(-128, 128, (2, *size, channels)).astype(np.int8)
    w = rng.integers(-127, 128, (*window, channels)).astype(np.int8)
    a[0], w[..., 0] = -128, 127  # two such products are as near to the end of int16 as it gets
    expected = np.zeros((2, *out, channels), dtype=np.int64)
    for i, j in np.ndindex(*window):
        rows, columns = (
            slice(k * d, k * d + (o - 1) * s + 1, s) for k, d, o, s in zip((i, j), dilations, out, strides, strict=True)
        )
        expected += a[:, rows, columns].astype(np.int64) * w[i, j]
    spec = depthwise.Depthwise("s8", channels, size[0], size[1], out, window, strides, dilations)
    return spec, [a, w, np.ones(channels, np.float32), np.zeros(expected.shape, np.float32)], expected


@pytest.mark.parametrize("channels", [8, 11, 16, 24, 29])
@pytest.mark.parametrize("window", [(3, 3), (1, 7), (2, 1)])
def test_int8_depthwise_is_exact(channels: int, window: tuple[int, int]) -> None:
    spec, arrays, expected = depthwise_inputs(channels, window)
    call(depthwise.build(spec, HOST), 2, arrays)
    np.testing.assert_array_equal(arrays[-1].astype(np.int64), expected)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("case", [*CASES, Case(12, 1, 13, 18)], ids=str)
def test_float_product(case: Case, half: bool) -> None:
    rng = np.random.default_rng(2)
    spec, a, w, expected = inputs(case, 3, rng, integer=False)
    if half:
        w16 = w.astype(np.float16)
        spec = Gemm(**{**spec.__dict__, "kind": "f16"})
        packed, tolerance = pack.pack_float(w16, HOST.tiles["f16"][1]), 2e-2
    else:
        packed, tolerance = pack.pack_float(w, HOST.tiles["f32"][1]), 1e-4
    out = np.zeros((3, case.rows, case.n), dtype=np.float32)
    call(gemm.build(spec, HOST), 3, [a, packed, out])
    assert np.abs(out - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
def test_half_product_of_any_number_of_rows(batch: int, quantize: bool) -> None:
    """Tiles of 8, 4 and fewer rows, over the streams of a convolution with three rows each; only the sums' order is ours."""
    rng = np.random.default_rng(9)
    case = Case(3, 3, 16, 24)
    spec, a, w, _ = inputs(case, batch, rng, integer=False)
    w16 = w.astype(np.float16)
    windows = np.stack([a[:, tap : tap + case.rows] for tap in range(case.taps)], axis=2)
    expected = np.einsum("brtk,tkn->brn", windows.astype(np.float64), w16[0].astype(np.float64))
    step = np.abs(expected).max() / 100
    out = np.full((batch, case.rows, case.n), -99, dtype=np.int8 if quantize else np.float32)
    arrays = [a, pack.pack_float(w16, HOST.tiles["f16"][1]), *([np.array([1 / step], np.float32)] * quantize), out]
    call(gemm.build(replace(spec, kind="f16", quantize=quantize), HOST), batch, arrays)
    if quantize:
        assert np.abs(out - expected / step).max() < 0.51  # half a step, and the sums' order
    else:
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_epilogue_does_bias_gelu_residual_and_requantizes_like_onnx() -> None:
    from math import erf

    rng = np.random.default_rng(3)
    case, batch = Case(3, 1, 32, 8), 4
    spec, a, w, exact = inputs(case, batch, rng, integer=True)
    spec = Gemm(**{**spec.__dict__, "bias": True, "activation": "gelu", "residual": True, "quantize": True})
    scale = rng.uniform(1e-4, 3e-4, 8).astype(np.float32)
    bias, residual = rng.standard_normal(8).astype(np.float32), rng.standard_normal((batch, 3, 8)).astype(np.float32)
    out_scale = np.float32(0.02)
    out = np.zeros((batch, 3, 8), dtype=np.int8)
    arrays = [a, pack.pack_s8(w), scale, bias, residual, np.array([1 / out_scale], np.float32), out]
    call(gemm.build(spec, HOST), batch, arrays)
    x = exact * scale + bias
    y = x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2))) + residual
    expected = np.clip(np.rint(y / out_scale), -128, 127)
    assert np.abs(out - expected).max() <= 1  # a value on the edge of two levels may go either way
    assert (out != expected).mean() < 0.05


@pytest.mark.parametrize("n", [6, 7, 12])
def test_requantized_rows_begin_anywhere(n: int) -> None:
    """Four bytes are stored as a word only where every row begins at one."""
    rng = np.random.default_rng(5)
    case, batch = Case(3, 1, 32, n), 5
    spec, a, w, exact = inputs(case, batch, rng, integer=True)
    scale, out = np.full(n, 1e-3, np.float32), np.zeros((batch, 3, n), dtype=np.int8)
    arrays = [a, pack.pack_s8(w), pack.pad_columns(scale, 1), np.ones(1, np.float32), out]
    call(gemm.build(replace(spec, quantize=True), HOST), batch, arrays)
    np.testing.assert_array_equal(out, np.clip(np.rint(exact * scale), -128, 127))


def test_a_reduction_that_is_no_multiple_of_16_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        pack.pack_s8(np.zeros((1, 1, 24, 4), np.int8))


@pytest.mark.parametrize("width", [4, 20, 256])
def test_layer_norm(width: int) -> None:
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((5, 2, width)) * 3 + 10).astype(np.float32)
    gamma, beta = rng.standard_normal(width).astype(np.float32), rng.standard_normal(width).astype(np.float32)
    out = np.zeros_like(x)
    call(layer_norm.build_layer_norm(layer_norm.LayerNorm(2, width, 1e-5), HOST), 5, [x, gamma, beta, out])
    x64 = x.astype(np.float64)
    expected = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(x64.var(-1, keepdims=True) + 1e-5) * gamma + beta
    np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("size", [1, 6, 64])
def test_quantize_rounds_half_to_even_and_saturates(size: int) -> None:
    x = np.resize(np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, 126.6], np.float32), (3, size))
    out = np.zeros((3, size), dtype=np.int8)
    call(layer_norm.build_quantize(layer_norm.Quantize(size), HOST), 3, [x, np.ones(1, np.float32), out])
    np.testing.assert_array_equal(out, np.clip(np.rint(x), -128, 127))


@pytest.mark.parametrize(
    ("name", "function", "low", "high", "tolerance"),
    [
        ("exp", exp4, -80, 80, 4e-7),
        ("gelu", lambda b, x: round_robin(gelu4(b, x, None, InRegisters(b)))[0], -8, 8, 3e-4),
        ("exact gelu", lambda b, x: round_robin(exact_gelu4(b, x, InRegisters(b)))[0], -20, 20, 1e-6),
    ],
)
def test_vector_polynomials(name: str, function: Any, low: float, high: float, tolerance: float) -> None:
    from math import erf

    x = np.linspace(low, high, 4096, dtype=np.float32)
    out = np.zeros_like(x)
    with kernel(name.replace(" ", "_"), HOST) as (b, batch):
        source, target = b.pointers({"x": "float32", "y": "float32"}).values()
        with T.serial(0, batch) as i:
            b.store(target, function(b, b.load(source, i * 4)), i * 4)
    call(b.result, 1024, [x, out])
    x64 = x.astype(np.float64)
    if name == "exp":
        assert np.abs(out / np.exp(x64) - 1).max() < tolerance
    else:
        assert np.abs(out - x64 * 0.5 * (1 + np.vectorize(erf)(x64 / np.sqrt(2)))).max() < tolerance


@pytest.mark.parametrize(
    ("name", "reference", "low", "high", "tolerance"),
    [
        ("exp", np.exp, -20, 20, 1e-6),
        ("log", np.log, 1e-6, 50, 2e-6),
        ("tanh", np.tanh, -6, 6, 1e-6),
        ("sigmoid", lambda v: 1 / (1 + np.exp(-v)), -10, 10, 1e-6),
        ("erf", None, -4, 4, 7e-5),
    ],
)
def test_stock_operators_use_no_libm(name: str, reference: Any, low: float, high: float, tolerance: float) -> None:
    from math import erf

    lower_math.register()
    x = np.linspace(low, high, 1000, dtype=np.float32)
    out = np.zeros_like(x)
    with kernel(name, HOST) as (b, batch):
        source, target = b.pointers({"x": "float32", "y": "float32"}).values()
        with T.serial(0, batch) as i:
            b.store(target, getattr(T, name)(source[i]), i, 1)
    call(b.result, len(x), [x, out])
    expected = (reference or np.vectorize(erf))(x.astype(np.float64))
    assert np.abs(out - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def test_product_that_leaves_out_what_is_zero() -> None:
    """A banded matrix, as a filterbank is: only the k that a column tile has weights at are multiplied."""
    rng = np.random.default_rng(5)
    w = np.zeros((90, 40), np.float32)
    for column in range(40):
        w[2 * column : 2 * column + 5, column] = rng.standard_normal(5)
    found = pack.sparse_rows(w, HOST.tiles["f32"][1])
    assert found is not None
    counts, index, packed = found
    assert sum(counts) < 120  # of 3 x 90
    a = rng.standard_normal((3, 5, 90)).astype(np.float32)
    out = np.zeros((3, 5, 40), np.float32)
    call(gemm.build(Gemm("f32", 5, 1, 90, 0, 90, 450, 40, nonzero_k=counts), HOST), 3, [a, packed, index, out])
    np.testing.assert_allclose(out, a.astype(np.float64) @ w, rtol=1e-4, atol=1e-5)
    assert pack.sparse_rows(rng.standard_normal((90, 40)).astype(np.float32), HOST.tiles["f32"][1]) is None


def test_product_of_a_transposed_operand_reads_it_by_strides() -> None:
    rng = np.random.default_rng(6)
    a, w = rng.standard_normal((2, 3, 13, 16)).astype(np.float32), rng.standard_normal((1, 1, 13, 18)).astype(np.float32)
    spec = Gemm("f32", 48, 13, 1, 16, 1, 3 * 208, 18, rows_per_block=16, block_stride=208)
    out = np.zeros((2, 3, 16, 18), np.float32)
    call(gemm.build(spec, HOST), 2, [a, pack.pack_float(w, HOST.tiles["f32"][1]), out])
    np.testing.assert_allclose(out, a.swapaxes(2, 3).astype(np.float64) @ w[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_product_in_many_groups(batch: int) -> None:
    case = Case(4, 16, 2, 36, groups=9)
    spec, a, w, expected = inputs(case, batch, np.random.default_rng(7), integer=False)
    out = np.zeros((batch, case.rows, case.n), np.float32)
    call(gemm.build(spec, HOST), batch, [a, pack.pack_float(w, HOST.tiles["f32"][1]), out])
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def attention_reference(
    spec: AttentionInt8, window: dict[str, np.ndarray], extra: dict[str, np.ndarray], factor: float
) -> np.ndarray:
    """(rows, d) of one stream in float64 from its int8 window, oldest token first."""

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), spec.heads, spec.width).swapaxes(0, 1).astype(np.float64)

    scores = split(window["q"]) @ split(window["k"]).swapaxes(1, 2) * factor + extra["mask"] + extra.get("distance", 0.0)
    p = np.exp(scores - scores.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    if spec.pooled:
        p = (p * extra["pool"][None, :, None]).sum(axis=1, keepdims=True)
    return (p @ split(window["v"])).swapaxes(0, 1).reshape(-1, spec.heads * spec.width)


@pytest.mark.parametrize(("new", "past", "cached", "pooled"), [(3, 3, False, False), (1, 24, False, False), (3, 9, True, True)])
def test_int8_attention_over_a_turning_ring(new: int, past: int, cached: bool, pooled: bool) -> None:
    """Step after step against the plain formula, until every ring has gone round, on two of three slots, extremes included."""
    rng = np.random.default_rng(8)
    heads, width, keys = 2, 32, past + new
    d, queries = heads * width, past + new if cached else new
    ring = keys * d + OVER_READ * width
    count = 3 if cached else 2
    stride = 16 + -(-ring // 4) * count
    spec = AttentionInt8(
        heads, width, new, past, cached, 3 * d, 0, d, 2 * d, True, not cached, pooled, state_stride=stride, quantize=False
    )
    distance = rng.standard_normal((heads, queries, keys)).astype(np.float32)
    slots, factor = np.array([2, 0], np.int32), 1e-3
    state = np.zeros((3, stride), np.float32)
    history: list[list[np.ndarray]] = [[np.zeros((keys, 3 * d), np.int8)] for _ in slots]
    function, built = build_attention_int8(spec, HOST), None
    for step in range(keys // new + 2):
        tokens = rng.integers(-128, 128, (2, new, 3 * d)).astype(np.int8)
        tokens[0, 0, :40] = -128
        state.view(np.int32)[slots, 0] = step
        mask = np.where(np.arange(keys) >= keys - new * (step + 1), 0.0, -1e4).astype(np.float32)
        pool = ((mask == 0) / (mask == 0).sum()).astype(np.float32)
        out = np.zeros((2, 1 if pooled else new, d), np.float32)
        rings = state.view(np.int8).reshape(3, -1)
        # Every pointer parameter is its own array here: one for the clock, one per ring, all views of the same rows when called.
        clock = state.view(np.int32).copy()
        parts = [np.roll(rings, -(64 + i * (stride - 16) // count * 4), axis=1).copy() for i in range(count)]
        arrays = [slots, clock, tokens, *parts, np.stack([mask, mask])]
        arrays += [] if cached else [np.concatenate([distance] * 2, axis=2)]
        arrays += [np.stack([pool, pool])] if pooled else []
        arrays += [np.array([factor, 1 / WEIGHT_ONE], np.float32), out]
        built = built or build(function, arrays)
        call(function, 2, arrays, built)
        size = (stride - 16) // count * 4
        for i in range(count):
            rings[:, 64 + i * size : 64 + (i + 1) * size] = parts[i][:, :size]
        for n in range(2):
            history[n].append(tokens[n])
            seen = np.concatenate(history[n])[-keys:]
            window = {"q": seen[:, :d] if cached else tokens[n][:, :d], "k": seen[:, d : 2 * d], "v": seen[:, 2 * d :]}
            extra = {"mask": mask, "pool": pool} | ({} if cached else {"distance": distance})
            expected = attention_reference(spec, window, extra, factor)
            np.testing.assert_allclose(out[n], expected, atol=128 * keys / WEIGHT_ONE)
