from __future__ import annotations

import numpy as np
import pytest
from edgeemo_runtime.errors import EdgeEmoError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeemo.quantize.calibration.observer import ActivationScaling, Observer, fake_quantize
from edgeemo.quantize.thresholds import THRESHOLDS

finite = st.floats(-1e4, 1e4, width=32)


def observe(*parts: np.ndarray) -> Observer:
    observer = Observer("x")
    for part in parts:
        observer.observe_range(part)
    for part in parts:
        observer.observe_histogram(part)
    return observer


@settings(deadline=None, max_examples=30)
@given(arrays(np.float32, st.integers(1, 200), elements=finite))
def test_scale_is_positive_finite_and_no_larger_than_min_max(values: np.ndarray) -> None:
    scale = observe(values).scale(ActivationScaling("kl"))
    assert np.isfinite(scale)
    assert scale > 0
    assert scale <= max(np.abs(values).max() / 127, 1e-8) * (1 + 1e-6)


@settings(deadline=None, max_examples=20)
@given(arrays(np.float32, 60, elements=finite), st.integers(1, 59))
def test_how_data_is_cut_does_not_matter(values: np.ndarray, cut: int) -> None:
    assert (
        observe(values).scale(ActivationScaling("kl"))
        == observe(values[:cut], values[cut:]).scale(ActivationScaling("kl"))
        == observe(values[cut:], values[:cut]).scale(ActivationScaling("kl"))
    )


@pytest.mark.parametrize("tiny", [1.1754944e-38, 1e-45, 1e-20])
def test_a_tensor_of_small_numbers_has_a_scale_of_its_own_with_a_finite_reciprocal(tiny: float) -> None:
    scale = observe(np.full(4, tiny, dtype=np.float32), np.zeros(2, dtype=np.float32)).scale(ActivationScaling("kl"))
    assert scale == pytest.approx(max(tiny / 127, 1e-30), rel=1e-3)


def test_a_tensor_of_zeros_has_any_positive_scale() -> None:
    assert observe(np.zeros(4, dtype=np.float32)).scale(ActivationScaling("kl")) == 1e-8


def test_energy_kept_is_the_share_of_squares_left() -> None:
    found = observe(np.array([1.0, 1.0, 10.0], dtype=np.float32))
    assert found.energy_kept(10.0) == pytest.approx(1.0, abs=0.01)
    assert found.energy_kept(1.0) == pytest.approx(3 / 102, rel=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_an_error_naming_the_tensor(bad: float) -> None:
    with pytest.raises(EdgeEmoError, match="tensor x"):
        observe(np.array([1.0, bad], dtype=np.float32))


@given(arrays(np.float32, 50, elements=st.floats(-3, 3, width=32)), st.floats(1e-3, 0.1))
def test_fake_quantize_is_what_onnx_does(values: np.ndarray, scale: float) -> None:
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "qdq",
        [info("x", TensorProto.FLOAT, [50]), info("s", TensorProto.FLOAT, []), info("z", TensorProto.INT8, [])],
        [info("y", TensorProto.FLOAT, [50])],
    )
    s = np.float32(scale)
    (y,) = ReferenceEvaluator(helper.make_model(graph)).run(None, {"x": values, "s": s, "z": np.int8(0)})
    np.testing.assert_array_equal(y, fake_quantize(values, scale))


@given(arrays(np.float32, st.integers(1, 300), elements=finite), st.sampled_from(sorted(THRESHOLDS)), st.sampled_from([2, 8]))
def test_the_same_data_again_does_not_move_a_threshold(values: np.ndarray, method: str, times: int) -> None:
    assert observe(*[values] * times).threshold(method) == observe(values).threshold(method)


@given(arrays(np.float32, 300, elements=finite), st.integers(1, 299))
def test_min_max_grows_with_more_data(values: np.ndarray, cut: int) -> None:
    assert observe(values).threshold("min-max") >= observe(values[:cut]).threshold("min-max")


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(set(THRESHOLDS) - {"min-max"}))
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform"])
def test_more_data_of_the_same_distribution_moves_a_threshold_little_on_average(kind: str, method: str) -> None:
    """One draw may move it by a third, where the largest of 20,000 values of a long-tailed distribution is doubled by chance
    (Laplace and KL: 1.35 in the worst of 150 draws); over twelve fixed draws the mean stays within a twelfth."""
    moved = []
    for seed in range(1222, 1234):
        rng = np.random.default_rng(seed)
        values = getattr(rng, kind)(-1 if kind == "uniform" else 0, 1, 40_000).astype(np.float32)
        half, whole = observe(values[:20_000]), observe(values)
        assert whole.largest >= half.largest
        moved.append(whole.threshold(method) / half.threshold(method))
    assert np.mean(moved) == pytest.approx(1, abs=1 / 12)


@pytest.mark.parametrize("method", sorted(THRESHOLDS))
@pytest.mark.parametrize("values", [[0.0] * 9, [3.0] * 9, [0.0, 0.0, 5.0], [1e-3] * 999 + [100.0]])
def test_constant_zero_and_single_outlier_tensors_have_a_scale(values: list[float], method: str) -> None:
    scale = observe(np.array(values, dtype=np.float32)).scale(ActivationScaling(method))
    assert np.isfinite(scale) and scale > 0
