"""A calibration kept as a file, and that nobody but the data has a say in what it holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import Clip, find_clips
from edgeemo.quantize.calibration.cache import calibration_document, read_calibration
from edgeemo.quantize.calibration.runner import Calibration
from edgeemo.quantize.calibration.sources import ClipSource
from edgeemo.quantize.plan import Plan, observe, plan, quantize_plan, stream_contract, with_moments
from edgeemo.quantize.recipe import load_recipe
from tests.conftest import CALIBRATION

pytestmark = pytest.mark.slow

CLIPS = find_clips(CALIBRATION)[::10]


def source(planned: Plan, clips: list[Clip]) -> ClipSource:
    return ClipSource.of(stream_contract(planned), clips)


@pytest.fixture(scope="module")
def planned(float_onnx: onnx.ModelProto) -> Plan:
    return plan(float_onnx, "m", load_recipe("int8-kl"))


@pytest.fixture(scope="module")
def calibration(planned: Plan) -> Calibration:
    return observe(planned, CLIPS)


@pytest.fixture(scope="module")
def stored(planned: Plan, calibration: Calibration) -> str:
    return json.dumps(calibration_document(planned, calibration))


def test_reused_for_any_recipe_it_gives_the_same_model(
    float_onnx: onnx.ModelProto, calibration: Calibration, stored: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    path.write_text(stored)
    for recipe in ("int8-kl", "int8-mse-fp16-emotion-conv"):
        now = plan(float_onnx, "m", load_recipe(recipe))
        direct, report = quantize_plan(now, calibration)
        kept = read_calibration(path, now, source(now, CLIPS))
        reused, _ = quantize_plan(now, with_moments(now, kept, source(now, CLIPS)))
        assert direct.graph == reused.graph
        assert report.recipe == recipe


def test_an_edited_threshold_is_used(planned: Plan, stored: str, tmp_path: Path) -> None:
    document = json.loads(stored)
    document["tensors"]["gelu"]["thresholds"]["kl"] = 127.0
    (tmp_path / "c.json").write_text(json.dumps(document))
    _, report = quantize_plan(planned, read_calibration(tmp_path / "c.json", planned, None))
    assert next(r.scale for r in report.layers if r.name == "stem.conv2") == 1.0


def test_stale_or_broken_ones_are_refused_with_the_reason(planned: Plan, stored: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"

    def reason(change: dict[str, object], clips: list[Clip] | None = None) -> str:
        path.write_text(json.dumps(json.loads(stored) | change))
        with pytest.raises(EdgeEmoError, match=r"c\.json") as error:
            read_calibration(path, planned, clips and source(planned, clips))
        return str(error.value)

    assert "stale: made of another model" in reason({"model_sha256": "0"})
    assert "stale: made of 20 other files than the 19 given" in reason({}, CLIPS[1:])
    assert "has no range of" in reason({"tensors": {}})
    entry = json.loads(stored)["tensors"]["gelu"]
    negative = {"gelu": entry | {"thresholds": entry["thresholds"] | {"kl": -1}}}
    assert "thresholds are finite and not negative" in reason({"tensors": negative})
    assert "not a calibration" in reason({"tensors": [1]})


def test_workers_and_the_folders_order_change_no_bit(planned: Plan, stored: str, tmp_path: Path) -> None:
    """Two workers, over a folder whose files were written in another order."""
    for i in np.random.default_rng(3).permutation(len(CLIPS)):
        shutil.copy(CLIPS[i].path, tmp_path / CLIPS[i].path.name)
    again = observe(planned, find_clips(tmp_path), jobs=2)
    assert json.dumps(calibration_document(planned, again, jobs=2)) == stored


@pytest.mark.filterwarnings("error:Sending large graph")  # the model goes there once
def test_a_dask_cluster_finds_the_same(planned: Plan, stored: str) -> None:
    distributed = pytest.importorskip("dask.distributed", reason="pip install 'edgeemo[cluster]'")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        again = observe(planned, CLIPS, cluster=address)
    assert json.dumps(calibration_document(planned, again)) == stored


def test_a_cluster_that_is_not_there_is_said(planned: Plan) -> None:
    with pytest.raises(EdgeEmoError, match="--cluster tcp://x: not a Dask scheduler's address"):
        observe(planned, CLIPS, cluster="tcp://x")
    pytest.importorskip("dask.distributed")
    with pytest.raises(EdgeEmoError, match="no scheduler answers there"):
        observe(planned, CLIPS, cluster="dask://127.0.0.1:1")
