from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeemo_runtime.errors import EdgeEmoError
from onnx import TensorProto, helper

from edgeemo.analyze.comparisons import ClipComparison, FeedComparison
from tests.analyze.conftest import CLIPS


def test_clips_to_choose_on_are_never_the_test_split(tmp_path: Path) -> None:
    rows = [f"{c.path},angry,{s},{s}" for c, s in zip(CLIPS, ("dev", "test", "train"), strict=False)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,split,speaker", *rows]))
    found = ClipComparison.of(tmp_path, None, None, [])
    assert [c.split for c in found.clips] == ["dev"]
    assert found.on.endswith("split dev")
    with pytest.raises(EdgeEmoError, match="test split, which is for scoring"):
        ClipComparison.of(tmp_path, "test", None, [])
    assert len(ClipComparison.of(None, None, 3, CLIPS).files) == 3


def test_the_f1_of_clips_is_by_what_the_model_hears() -> None:
    """A clip of two steps: the first says its label, the last another."""
    (clip,) = (c for c in CLIPS[:1])
    p = np.zeros((2, 7), np.float32)
    p[0, clip.label], p[1, (clip.label + 1) % 7] = 0.9, 0.8
    found = {hears: ClipComparison((clip,), "one", hears).score([p], [p]).f1 for hears in ("window", "call")}
    assert found["window"] == 1.0 and found["call"] == 0.0


def graph(gain: float, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = gain x, and z = x."""
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Mul", ["x", "g"], ["y"]), helper.make_node("Cast", ["x"], ["z"], to=kind)]
    outputs = [info("y", TensorProto.FLOAT, ["N", 4]), info("z", kind, ["N", 4])]
    gains = [helper.make_tensor("g", TensorProto.FLOAT, [], [gain])]
    made = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, ["N", 4])], outputs, gains)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", x=np.random.default_rng(i).standard_normal((2, 4)).astype(np.float32))
    return tmp_path


def test_feeds_are_compared_by_noise_over_signal_and_the_mean_of_outputs(feeds: Path) -> None:
    """One output in two a tenth too large: (0.01 + 0) / 2, which is 23 dB."""
    compared = FeedComparison.of(feeds, None)
    one, off = compared.answers(graph(1.0)), compared.answers(graph(1.1))
    assert compared.score(one, one).error == 0 and compared.score(one, one).sqnr_db == 200
    assert compared.score(one, off).error == pytest.approx(0.005, rel=1e-5)
    assert compared.score(one, off).sqnr_db == pytest.approx(23.01, abs=0.01)
    assert compared.score(one, off).drop is None and not compared.labelled


def test_outputs_of_whole_numbers_are_left_out_and_zero_is_compared_without_dividing(feeds: Path) -> None:
    compared = FeedComparison.of(feeds, 2)
    assert compared.on == f"2 feeds of {feeds}"
    assert len(compared.answers(graph(1.0, TensorProto.INT64))) == 1
    zero = [np.zeros(4, dtype=np.float32)]
    assert compared.score(zero, zero).error == 0
    assert compared.score(zero, [np.ones(4, dtype=np.float32)]).error == 1


def test_a_model_without_float_outputs_and_a_folder_without_feeds(feeds: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = graph(1.0, TensorProto.INT64)
    del model.graph.output[0]
    with pytest.raises(EdgeEmoError, match="no output of the model is of floats"):
        FeedComparison.of(feeds, None).answers(model)
    with pytest.raises(EdgeEmoError, match=r"no \.npz in it"):
        FeedComparison.of(tmp_path_factory.mktemp("none"), None)
