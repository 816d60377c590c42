"""`edgeemo bench` on this machine: figures are there and make sense; no time is tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeemo.adapt.adapt import adapt
from edgeemo.bench.peers import Peer, compare
from edgeemo.cli.main import main
from tests.graphs import compiled, recurrence

pytestmark = pytest.mark.slow


def test_cost_per_stream_and_plot(host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    files = ["--int8", str(host_artifacts["int8"]), "--float", str(host_artifacts["float"])]
    written = ["--out", str(tmp_path / "b.json")]
    done = CliRunner().invoke(main, ["bench", *files, "--batches", "1,4", "--plot", str(tmp_path / "b.png"), *written, "--json"])
    assert done.exit_code == 0, done.output
    host = json.loads(done.stdout)["host"]
    assert host["cost_per_stream"]["int8"]["4"] == 1.0
    assert host["float_over_int8"].keys() == {"1", "4"}
    assert json.loads((tmp_path / "b.json").read_text()) == json.loads(done.stdout)
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"


def test_a_model_that_streams_nothing_has_costs_too(tmp_path: Path) -> None:
    model = adapt(recurrence("GRU", "forward"), "m", {}, {}).model
    compiled(model, tmp_path)
    done = CliRunner().invoke(main, ["bench", "--int8", str(tmp_path / "host.edgeemo"), "--batches", "1,2", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["host"]["cost_per_stream"]["int8"].keys() == {"1", "2"}
    ours = {"ours": (tmp_path / "host.edgeemo", Path())}
    document = compare(ours, [Peer("ort", "onnxruntime", tmp_path / "m.onnx")], 2, None, lambda n: None)
    assert [r["name"] for r in document["rows"]] == ["ours", "ort"]


@pytest.mark.parametrize("sizes", ["0,1", "a", "", "17"])
def test_wrong_batch_sizes_are_wrong_usage(sizes: str) -> None:
    done = CliRunner().invoke(main, ["bench", "--batches", sizes])
    assert done.exit_code == 2
    assert "--batches" in done.output


def test_missing_tool_and_artifact_are_named(host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["bench", "--int8", str(host_artifacts["int8"]), "--batches", "1", "--a72cost", str(tmp_path)]
    done = CliRunner().invoke(main, [*arguments, "--board", str(tmp_path / "none.edgeemo")])
    assert done.exit_code == 1
    assert "none.edgeemo" in done.output
