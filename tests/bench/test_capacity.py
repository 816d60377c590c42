"""Plans: the scheduler's own arithmetic is tested next to it; here what goes in and comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.bench.capacity import batch_seconds
from edgeemo.cli.main import main


def report(folder: Path, rows: list[tuple[int, int]]) -> Path:
    int8 = [{"streams": n, "real": r} for n, r in rows]
    (folder / "costs.json").write_text(json.dumps({"modelled": {"int8": int8, "at_8_streams": {"engine_over_step": 1.1}}}))
    return folder / "costs.json"


def test_costs_are_cycles_at_the_pi_4_s_1500_mhz_with_python_on_top(tmp_path: Path) -> None:
    seconds, _ = batch_seconds("aarch64-neon", report(tmp_path, [(1, 3_000_000), (8, 15_000_000), (16, 27_000_000)]))
    assert len(seconds) == 17
    assert seconds[8] == pytest.approx((15 + 1.5) / 1500)
    assert seconds[12] == pytest.approx((21 + 1.5) / 1500)
    assert (np.diff(seconds) > 0).all()


def test_a_target_s_own_clock_counts(tmp_path: Path) -> None:
    costs = report(tmp_path, [(8, 15_000_000), (16, 27_000_000)])
    slow, quick = (batch_seconds(target, costs)[0] for target in ("aarch64-neon", "pi5"))
    np.testing.assert_allclose(slow[1:] / quick[1:], 2400 / 1500)


def test_no_clock_is_made_up(tmp_path: Path) -> None:
    costs = report(tmp_path, [(8, 15_000_000), (16, 27_000_000)])
    with pytest.raises(EdgeEmoError, match="target host: its file says no clock"):
        batch_seconds("host", costs)
    with pytest.raises(EdgeEmoError, match="no target 'x'"):
        batch_seconds("x", costs)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "spread", "at_random"), [("aarch64-neon", 80, 60), ("pi5", 320, 300)])
def test_the_plan_of_the_committed_costs(target: str, spread: int, at_random: int) -> None:
    done = CliRunner().invoke(main, ["capacity", "--target", target, "--streams", "80", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    rows = json.loads(Path(document["costs"]).read_text())["modelled"]["int8"]
    busy_throughout = max(r["streams_per_core"] for r in rows)  # in the largest batches, whenever they come
    assert document["phases_spread"]["fits"]
    assert spread <= document["phases_spread"]["most_streams"] < busy_throughout
    assert at_random <= document["phases_at_random"]["most_streams"] < document["phases_spread"]["most_streams"]


@pytest.mark.parametrize(("text", "words"), [("{}", "no report"), ("nonsense", "no report"), (None, "cannot be read")])
def test_what_is_no_report_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "costs.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EdgeEmoError, match=words):
        batch_seconds("x", path)


def test_an_unknown_target_says_which_there_are() -> None:
    done = CliRunner().invoke(main, ["capacity", "--target", "z80", "--streams", "3"])
    assert done.exit_code == 2
    assert "aarch64-neon" in done.output
    assert CliRunner().invoke(main, ["capacity", "--streams", "1,2"]).exit_code == 2
