"""Convolutions over one and two dimensions go through the product kernels, exactly, and nothing is transposed between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeemo.adapt.adapt import adapt, run
from edgeemo.compile.kernels.vector_math import ACTIVATIONS
from edgeemo.onnxlib.feeds import made_up
from edgeemo.quantize.plan import plan
from edgeemo.quantize.recipe import Recipe, load_recipe
from tests.graphs import compiled, graph, quantized, residual_block

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {  # attributes, channels and size, weights
    "3 x 3": ({}, (16, 9, 9), (8, 16, 3, 3)),
    "padded, three channels": ({"pads": [1, 1, 1, 1]}, (3, 8, 11), (10, 3, 3, 3)),
    "padded on one side, strides": ({"pads": [0, 1, 1, 2], "strides": [2, 3]}, (5, 9, 14), (7, 5, 3, 5)),
    "1 x 1": ({}, (24, 6, 5), (18, 24, 1, 1)),
    "1 x 1 of odd channels, strided": ({"strides": [2, 2]}, (13, 7, 7), (4, 13, 1, 1)),
    "rows far apart": ({"dilations": [2, 1]}, (6, 9, 8), (4, 6, 3, 3)),
    "wide": ({"pads": [1, 1, 1, 1]}, (4, 3, 90), (8, 4, 3, 3)),
    "a waveform": ({"strides": [5]}, (1, 100), (6, 1, 20)),
    "odd channels over time, padded": ({"pads": [1, 1]}, (13, 9), (8, 13, 3)),
    "odd channels over time, spread": ({"dilations": [2]}, (13, 9), (8, 13, 3)),
    "columns far apart": ({"dilations": [1, 3]}, (6, 4, 13), (5, 6, 3, 3)),
    "both far apart, padded, strides": (
        {"dilations": [2, 2], "pads": [0, 2, 2, 1], "strides": [1, 2]},
        (16, 8, 11),
        (8, 16, 2, 3),
    ),
    "groups": ({"group": 2}, (8, 9, 9), (12, 4, 3, 3)),
    "groups, padded, strides": ({"group": 4, "pads": [1, 0, 0, 2], "strides": [2, 3]}, (20, 8, 13), (16, 5, 3, 4)),
    "groups, far apart": ({"group": 3, "dilations": [1, 2]}, (48, 5, 9), (18, 16, 2, 3)),
    "groups, 1 x 1": ({"group": 2}, (32, 6, 5), (24, 16, 1, 1)),
    "groups, one column, strides": ({"group": 2, "strides": [2, 3], "pads": [1, 0, 1, 1]}, (32, 9, 8), (8, 16, 3, 1)),
    "groups of odd channels, 1 x 1": ({"group": 2, "strides": [1, 2]}, (10, 6, 5), (6, 5, 1, 1)),
    "groups of one channel, two results each": ({"group": 8, "pads": [1, 1, 1, 1]}, (8, 5, 9), (16, 1, 3, 3)),
    "groups of one channel, three results each, over time": ({"group": 5, "strides": [2]}, (5, 21), (15, 1, 4)),
    "groups of odd channels over time": ({"group": 3, "pads": [2, 1], "strides": [2]}, (15, 21), (12, 5, 4)),
    "groups of odd channels over time, spread": ({"group": 2, "dilations": [3]}, (10, 21), (8, 5, 3)),
    "same, the odd row after": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (4, 8, 9), (4, 4, 3, 3)),
    "same, the odd row before": ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (4, 8, 9), (4, 4, 3, 3)),
}


def conv(attributes: dict[str, Any], x: tuple[int, ...], weight: tuple[int, ...]) -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", **attributes)]
    constants = {"w": RNG.standard_normal(weight).astype(np.float32), "b": RNG.standard_normal(weight[0]).astype(np.float32)}
    return adapt(graph(nodes, {"x": ["n", *x]}, {"y": ["n", weight[0], *"hv"[: len(x) - 1]]}, constants), "m", {}, {}).model


@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_every_form_of_window_is_a_product(case: str, kind: str, tmp_path: Path) -> None:
    model = conv(*CASES[case])
    if kind == "int8":
        model = quantized(model, tmp_path)
    made, function = compiled(model, tmp_path)
    assert made.stock_products == []
    ours = ("gemm_s8", "depthwise_s8") if kind == "int8" else ("gemm_f32", "depthwise_f32")
    assert any(name.startswith(ours) for name in made.kernels)
    if case == "a waveform" and kind == "int8":
        assert "gemm_s8_rows17_k32_n6_bias" in made.kernels  # not 20 taps of one channel filled up to 16
    for batch in (1, 5):
        feed = made_up(model, batch, 9)
        np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-5, atol=1e-5)


DEPTHWISE: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {  # attributes, channels and size, window
    "3 x 3": ({"pads": [1, 1, 1, 1]}, (16, 6, 10), (3, 3)),
    "padded on one side, strides, eight channels more": ({"pads": [2, 0, 1, 3], "strides": [2, 1]}, (24, 7, 5), (5, 3)),
    "wide, channels that fill no vector": ({"pads": [2, 2, 2, 2]}, (29, 5, 9), (5, 5)),
    "few channels": ({"pads": [1, 1, 1, 1]}, (11, 4, 6), (3, 3)),
    "spread": ({"dilations": [1, 2], "strides": [1, 2]}, (8, 4, 11), (1, 3)),
    "over time": ({"pads": [3, 3], "strides": [2]}, (40, 21), (7,)),
    "causal, spread": ({"pads": [4, 0], "dilations": [2]}, (16, 13), (3,)),
    "too few for INT8": ({"dilations": [1, 2], "strides": [1, 2]}, (3, 4, 11), (1, 3)),
}


def depthwise(attributes: dict[str, Any], x: tuple[int, ...], window: tuple[int, ...]) -> onnx.ModelProto:
    """With relu, between two convolutions of one place."""
    ones = (1,) * len(window)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "w", "b"], ["d"], name="depthwise", group=x[0], **attributes),
        helper.make_node("Relu", ["d"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w1"], ["y"], name="last"),
    ]
    shapes = {"w0": (x[0], 6, *ones), "w": (x[0], 1, *window), "b": x[:1], "w1": (5, x[0], *ones)}
    constants = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    outside = {"x": ["n", 6, *x[1:]]}, {"y": ["n", 5, *"hv"[: len(window)]]}
    return adapt(graph(nodes, *outside, constants), "m", {}, {}).model


@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise(case: str, kind: str, tmp_path: Path) -> None:
    model = depthwise(*DEPTHWISE[case])
    if kind == "int8":
        model = quantized(model, tmp_path)
    made, function = compiled(model, tmp_path)
    assert made.stock_products == []
    ending = "s8", "bias_relu_quantize"  # from int8 to int8: nothing is float between the three
    if kind == "float":
        ending = "f32", "bias_relu"
    if case == "too few for INT8":
        ending = "f32", "bias"
    assert [k for k in made.kernels if k.startswith(f"depthwise_{ending[0]}") and k.endswith(ending[1])]
    for batch in (1, 3):
        feed = made_up(model, batch, 9)
        got, wanted = function.run(feed)["y"], run(model, feed)["y"]
        step = 0.0 if kind == "float" else np.abs(wanted).max() / 100  # ONNX Runtime's float sums may round otherwise
        assert np.abs(got - wanted).max() <= 1e-4 + step and np.median(np.abs(got - wanted)) <= 1e-5


Nodes = list[onnx.NodeProto]
ACTIVATED: dict[str, tuple[str, Nodes]] = {  # what the kernel is called, nodes from a to r
    "relu6": ("relu6", [helper.make_node("Clip", ["a", "zero", "six"], ["r"])]),
    "hard swish": ("hard_swish", [helper.make_node("HardSwish", ["a"], ["r"])]),
    "hard swish of Paddle": ("hard_swish", [
        helper.make_node("Add", ["a", "three"], ["a3"]),
        helper.make_node("Clip", ["a3", "zero", "six"], ["c"]),
        helper.make_node("Mul", ["a", "c"], ["m"]),
        helper.make_node("Div", ["m", "six"], ["r"]),
    ]),
    "hard swish, a sixth first": ("hard_swish", [
        helper.make_node("Add", ["a", "three"], ["a3"]),
        helper.make_node("Clip", ["a3", "zero", "six"], ["c"]),
        helper.make_node("Mul", ["sixth", "c"], ["g"]),
        helper.make_node("Mul", ["g", "a"], ["r"]),
    ]),
    "silu": ("silu", [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["r"])]),
    "clipped at three": ("", [helper.make_node("Clip", ["a", "zero", "three"], ["r"])]),
    "another slope": ("", [
        helper.make_node("HardSigmoid", ["a"], ["g"], alpha=0.2, beta=0.5), helper.make_node("Mul", ["a", "g"], ["r"])
    ]),
    "a gate of something else": ("", [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["a", "s"], ["r"])]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("group", [1, 16])
@pytest.mark.parametrize("case", ACTIVATED)
def test_activations_are_part_of_the_convolution(case: str, group: int, kind: str, tmp_path: Path) -> None:
    name, nodes = ACTIVATED[case]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", group=group, pads=[1, 1, 1, 1]),
        *nodes,
        helper.make_node("Conv", ["r", "w1"], ["y"], name="last"),
    ]
    weights = {"w0": RNG.standard_normal((16, 16 // group, 3, 3)), "w1": RNG.standard_normal((8, 16, 1, 1))}
    constants = {k: v.astype(np.float32) for k, v in weights.items()}
    constants |= {k: np.float32(v) for k, v in {"zero": 0, "three": 3, "six": 6, "sixth": 1 / 6}.items()}
    model = adapt(graph(nodes, {"x": ["n", 16, 6, 9]}, {"y": ["n", 8, 6, 9]}, constants), "m", {}, {}).model
    if kind == "int8":
        model = quantized(model, tmp_path, load_recipe("int8-min-max"))
    made, function = compiled(model, tmp_path)
    first = "depthwise" if group > 1 else "gemm"
    if name:
        ending = f"_{name}_quantize" if kind == "int8" else f"_{name}"
        assert any(k.startswith(first) and k.endswith(ending) for k in made.kernels)
    else:
        assert not [k for k in made.ours for activation in ACTIVATIONS if activation in k]
    feed = made_up(model, 3, 9)
    got, wanted = function.run(feed)["y"], run(model, feed)["y"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=(1e-5 if kind == "float" else 0.02) * np.abs(wanted).max())


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("channels", [20, 22, 32])  # 22: the last tile has columns of no one
@pytest.mark.parametrize("size", [13, 24])  # of tiles with and without rows left
def test_long_activations_of_many_tiles_are_a_loop(size: int, channels: int, window: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], pads=[window // 2] * 4),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    constants = {"w": RNG.standard_normal((channels, 8, window, window)), "b": RNG.standard_normal(channels)}
    constants = {k: v.astype(np.float32) for k, v in constants.items()}
    model = graph(nodes, {"x": ["n", 8, size, size]}, {"y": ["n", channels, size, size]}, constants)
    made, function = compiled(model, tmp_path)
    assert any(k.endswith("_silu") for k in made.kernels)
    feed = made_up(model, 3, 9)
    got, wanted = function.run(feed)["y"], run(model, feed)["y"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


BOUNDED: dict[str, Nodes] = {  # from a to y: no relu6, though bounds of 0 and 6 are there
    "clipped at three, then at six": [
        helper.make_node("Min", ["a", "three"], ["m"]),
        helper.make_node("Clip", ["m", "zero", "six"], ["y"]),
    ],
    "trebled between the bounds": [
        helper.make_node("Max", ["a", "zero"], ["p"]),
        helper.make_node("Mul", ["p", "three"], ["m"]),
        helper.make_node("Min", ["m", "six"], ["d"]),
        helper.make_node("Mul", ["d", "third"], ["y"]),
    ],
    "at least something else": [
        helper.make_node("Max", ["a", "x"], ["m"]),
        helper.make_node("Clip", ["m", "zero", "six"], ["y"]),
    ],
}


@pytest.mark.parametrize("case", BOUNDED)
def test_bounds_of_something_else_are_no_activation(case: str, tmp_path: Path) -> None:
    """Straight from the file: ONNX Runtime, which adapt asks, makes one Clip of two."""
    nodes = [helper.make_node("Conv", ["x", "w0"], ["a"], name="first"), *BOUNDED[case]]
    constants = {"w0": RNG.standard_normal((8, 8, 1)).astype(np.float32)}
    constants |= {k: np.float32(v) for k, v in {"zero": 0, "three": 3, "six": 6, "third": 1 / 3}.items()}
    model = graph(nodes, {"x": ["n", 8, 10]}, {"y": ["n", 8, 10]}, constants)
    _, function = compiled(model, tmp_path)
    feed = {"x": 3 * np.random.default_rng(9).standard_normal((2, 8, 10)).astype(np.float32)}
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-5, atol=1e-5)


AFFINE: dict[str, Nodes] = {  # from a to r
    "a factor and a summand for all": [
        helper.make_node("Mul", ["a", "two"], ["m"]),
        helper.make_node("Add", ["m", "three"], ["r"]),
    ],
    "for every channel": [helper.make_node("Add", ["each", "a"], ["s"]), helper.make_node("Mul", ["each", "s"], ["r"])],
}


@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("case", AFFINE)
def test_what_is_known_is_part_of_the_weights(case: str, group: int, kind: str, tmp_path: Path) -> None:
    """A convolution, what is multiplied and added to its results, and relu6 are one kernel."""
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b"], ["a"], name="first", group=group),
        *AFFINE[case],
        helper.make_node("Clip", ["r", "zero", "six"], ["y"]),
    ]
    weights = {"w0": RNG.standard_normal((8, 8 // group, 3)), "b": RNG.standard_normal(8), "each": RNG.standard_normal((8, 1))}
    constants = {k: v.astype(np.float32) for k, v in weights.items()}
    constants |= {k: np.float32(v) for k, v in {"zero": 0, "two": 2, "three": 3, "six": 6}.items()}
    model = adapt(graph(nodes, {"x": ["n", 8, 10]}, {"y": ["n", 8, 8]}, constants), "m", {}, {}).model
    if kind == "int8":
        model = quantized(model, tmp_path, load_recipe("int8-min-max"))
    made, function = compiled(model, tmp_path)
    assert any(k.startswith(("gemm", "depthwise")) and k.endswith("_bias_relu6") for k in made.kernels)
    feed = made_up(model, 3, 9)
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-4)


def test_what_goes_by_time_is_no_bias(tmp_path: Path) -> None:
    """As many places as channels: a constant for every place has as many values as one for every channel."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Add", ["a", "places"], ["s"]),
        helper.make_node("Mul", ["s", "places"], ["y"]),
    ]
    shapes = {"w0": (8, 4, 1), "places": (8,)}
    constants = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    model = adapt(graph(nodes, {"x": ["n", 4, 8]}, {"y": ["n", 8, 8]}, constants), "m", {}, {}).model
    _, function = compiled(model, tmp_path)
    feed = made_up(model, 2, 9)
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["3 x 3", "over time"])
def test_depthwise_halves_become_floats(case: str, tmp_path: Path) -> None:
    """A few hundred weights; what analyze may propose must not end in TVM's stock loops."""
    model = quantized(depthwise(*DEPTHWISE[case]), tmp_path, Recipe().keep(("depthwise",), "fp16", "-"))
    made, function = compiled(model, tmp_path)
    assert made.stock_products == []
    assert any(name.startswith("depthwise_f32") for name in made.kernels)
    feed = made_up(model, 3, 9)
    got, wanted = function.run(feed)["y"], run(model, feed)["y"]
    assert np.median(np.abs(got - wanted)) <= 1e-4 and np.abs(got - wanted).max() <= np.abs(wanted).max() / 100


def test_halves(tmp_path: Path) -> None:
    model = quantized(conv(*CASES["padded, three channels"]), tmp_path, Recipe().keep(("conv",), "fp16", "-"))
    made, function = compiled(model, tmp_path)
    assert any(name.startswith("gemm_f16") for name in made.kernels)
    feed = made_up(model, 3, 9)
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_nothing_is_transposed_between_convolutions(kind: str, tmp_path: Path) -> None:
    """Element by element and by joining channels, values stay channels-last from the first convolution to the last."""
    model = residual_block()
    if kind == "int8":
        model = quantized(model, tmp_path, load_recipe("int8-min-max"))
    made, function = compiled(model, tmp_path)
    assert made.stock_products == []
    assert sum("transpose" in name for name in made.kernels) == 2  # in and out
    feed = made_up(model, 3, 9)
    got, wanted = function.run(feed)["y"], run(model, feed)["y"]
    assert np.abs(got - wanted).max() <= (1e-5 if kind == "float" else 0.02) * np.abs(wanted).max()


def test_pooling_resizing_and_clips_stay_channels_last(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "three"], ["a3"]),
        helper.make_node("Clip", ["a3", "zero", "six"], ["clipped"]),
        helper.make_node("Mul", ["a", "clipped"], ["hard_swish"]),
        helper.make_node("MaxPool", ["hard_swish"], ["most"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("AveragePool", ["hard_swish"], ["mean"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0]),
        helper.make_node("Add", ["most", "mean"], ["half"]),
        helper.make_node(
            "Resize", ["half", "", "scales"], ["whole"], mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("GlobalAveragePool", ["whole"], ["squeezed"]),
        helper.make_node("Conv", ["squeezed", "w1"], ["excited"], name="gate"),
        helper.make_node("HardSigmoid", ["excited"], ["gate"]),
        helper.make_node("Mul", ["whole", "gate"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w2"], ["y"], name="last"),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in
                 {"w0": (8, 3, 3, 3), "w1": (8, 8, 1, 1), "w2": (4, 8, 1, 1)}.items()}  # fmt: skip
    constants |= {name: np.float32(value) for name, value in {"zero": 0, "three": 3, "six": 6}.items()}
    constants["scales"] = np.array([1, 1, 2, 2], np.float32)
    model = adapt(graph(nodes, {"x": ["n", 3, 8, 12]}, {"y": ["n", 4, 8, 12]}, constants), "m", {}, {}).model
    made, function = compiled(model, tmp_path)
    assert sum("transpose" in name for name in made.kernels) == 2  # in and out
    assert any("add_maximum_minimum_multiply" in name for name in made.kernels)  # one pass over the values
    feed = made_up(model, 3, 9)
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-4)


def test_what_no_int8_kernel_takes_stays_in_float(tmp_path: Path) -> None:
    """A convolution of few channels through INT8 and back would be slower than in float."""
    model = depthwise(*DEPTHWISE["too few for INT8"])
    precisions = {x.name: x.precision for x in plan(model, "m", Recipe()).layers}
    assert precisions == {"first": "int8", "depthwise": "fp32", "last": "int8"}
