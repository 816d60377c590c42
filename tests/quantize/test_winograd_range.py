"""Recipes that leave some of int8 out: what is in the graph then, for whom, and that all of the chain keeps to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper, numpy_helper

from edgeemo.adapt.adapt import adapt, run
from edgeemo.compile.importer import import_onnx
from edgeemo.compile.ir import KernelTable
from edgeemo.compile.kernels import pack
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.compile.pipeline import lower
from edgeemo.onnxlib.feeds import made_up
from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.calibration.observer import fake_quantize
from edgeemo.quantize.recipe import Recipe, load_recipe
from edgeemo.targets import capabilities
from edgeemo.targets.board import load_target
from tests.graphs import compiled, graph, quantized

REDUCED = Recipe(threshold="min-max", activation_qmax=80, weight_qmax=47)


def two_layers(k: int) -> onnx.ModelProto:
    """x (n, k) -> relu(x w) (32) -> v, 8 columns."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    weights = {"w": (k, 32), "v": (32, 8)}
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in weights.items()}
    return adapt(graph(nodes, {"x": ["n", k]}, {"y": ["n", 8]}, constants), "m", {}, {}).model


def clips(model: onnx.ModelProto) -> list[str]:
    return [n.input[0].removesuffix("_quantized") for n in model.graph.node if n.op_type == "Clip"]


def specs(model: onnx.ModelProto, target: str) -> list[Gemm]:
    table = KernelTable(load_target(target).kernels)
    lower(import_onnx(model, "m"), table, lambda name, text: None)
    return [s for s in table.specs.values() if isinstance(s, Gemm)]


def test_the_default_recipe_leaves_room_for_sums() -> None:
    recipe = load_recipe(DEFAULT_RECIPE)
    assert recipe.activation_qmax + recipe.weight_qmax == capabilities.INT8_MAX


def test_values_and_weights_keep_to_it(tmp_path: Path) -> None:
    made = quantized(two_layers(64), tmp_path, REDUCED)
    held = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    assert np.abs(held["w_int8"]).max() == np.abs(held["v_int8"]).max() == 47
    assert clips(made) == ["x", "r"]
    onnx.checker.check_model(made, full_check=True)
    made.graph.output.append(helper.make_tensor_value_info("x_clipped", onnx.TensorProto.INT8, ["n", 64]))
    feed = {name: 9 * value for name, value in made_up(two_layers(64), 3, 9).items()}  # beyond what it was calibrated on
    values = run(made, feed)["x_clipped"]
    assert values.min() == -80 and values.max() == 80


def test_layers_that_gain_nothing_by_it_have_all_of_int8(tmp_path: Path) -> None:
    """48 is no multiple of 32: the kernel that takes half the multiplications does not take it."""
    made = quantized(two_layers(48), tmp_path, REDUCED)
    held = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    assert np.abs(held["w_int8"]).max() == 127 and np.abs(held["v_int8"]).max() == 47
    assert clips(made) == ["r"]


def test_the_board_takes_winograd_where_it_fits_and_only_there(tmp_path: Path) -> None:
    """Found from the graph: nobody tells the compiler."""
    reduced, whole = (
        quantized(two_layers(64), tmp_path, recipe)
        for recipe in (REDUCED, Recipe(threshold="min-max", activation_qmax=127, weight_qmax=127))
    )
    assert [s.winograd for s in specs(reduced, "aarch64-neon")] == [True, True]
    assert [s.winograd for s in specs(reduced, "host")] == [False, False]
    assert [s.winograd for s in specs(whole, "aarch64-neon")] == [False, False]
    too_far = quantized(two_layers(64), tmp_path, Recipe(threshold="min-max", activation_qmax=80, weight_qmax=48))
    assert [s.winograd for s in specs(too_far, "aarch64-neon")] == [False, False]


@pytest.mark.parametrize("k", [48, 64])
def test_the_artifact_clips_as_onnx_runtime_does(k: int, tmp_path: Path) -> None:
    made = quantized(two_layers(k), tmp_path, REDUCED)
    artifact, function = compiled(made, tmp_path)
    assert not artifact.stock_products
    assert not [name for name in artifact.kernels if "clip" in name or "maximum" in name]  # the kernels do it
    feed = {name: 3 * value for name, value in made_up(made, 5, 9).items()}
    wanted = run(made, feed)["y"]
    np.testing.assert_allclose(function.run(feed)["y"], wanted, atol=2e-4 * np.abs(wanted).max())


def test_a_clip_of_minus_128_alone_is_kept(tmp_path: Path) -> None:
    """As symmetric quantizers write it: all of int8 but its least value."""
    made = quantized(two_layers(64), tmp_path, REDUCED)
    for constant in made.graph.initializer:
        if constant.name in ("int8_-80", "int8_80"):
            value = np.int8(np.sign(numpy_helper.to_array(constant)) * 127)
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    _, function = compiled(made, tmp_path)
    feed = {name: 9 * value for name, value in made_up(made, 5, 9).items()}
    wanted = run(made, feed)["y"]
    np.testing.assert_allclose(function.run(feed)["y"], wanted, atol=2e-4 * np.abs(wanted).max())


@given(st.integers(1, 127), arrays(np.float32, 9, elements=st.floats(-300, 300, width=32)))
def test_fake_quantize_clips_there(largest: int, values: np.ndarray) -> None:
    levels = fake_quantize(values, 1.0, largest)
    least = -128 if largest == 127 else -largest
    np.testing.assert_array_equal(levels, np.clip(np.rint(values), least, largest))


int8s = st.integers(0, 127).flatmap(
    lambda most: st.tuples(
        arrays(np.int8, (3, 1, 1, 64), elements=st.integers(-most, most)),
        arrays(np.int8, (1, 1, 64, 5), elements=st.integers(most - 127, 127 - most)),
    )
)


@given(int8s)
def test_half_the_multiplications_give_the_same_sums(operands: tuple[np.ndarray, np.ndarray]) -> None:
    """Winograd's identity as the packed weights and their terms have it, the sums of two operands always an int8."""
    a, w = operands
    assert capabilities.winograd_fits(w, int(np.abs(a.astype(int)).max(initial=0)))
    packed, terms = pack.pack_s8_winograd(w)
    w0, w1 = (packed.reshape(2, 2, 4, 2, 16)[..., half, :].astype(int) for half in range(2))  # tile, chunk, column, k
    a0, a1 = (a.reshape(3, 1, 2, 1, 2, 16)[..., half, :].astype(int) for half in range(2))
    left, right = a0 + w1, a1 + w0
    assert np.abs(left).max() <= 127 and np.abs(right).max() <= 127
    sums = (left * right - a0 * a1).sum(axis=(2, 4)).reshape(3, 8) - terms
    np.testing.assert_array_equal(sums[:, :5], a.reshape(3, 64).astype(int) @ w.reshape(64, 5).astype(int))
