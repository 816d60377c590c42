from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeemo.analyze import evaluations as module
from edgeemo.analyze.comparisons import ClipComparison
from edgeemo.analyze.evaluations import Evaluations
from edgeemo.analyze.parts import find_parts
from edgeemo.analyze.search import keeping, only
from edgeemo.quantize.calibration.runner import Calibration
from edgeemo.quantize.plan import Plan
from edgeemo.quantize.recipe import Recipe, load_recipe
from tests.analyze.conftest import CLIPS

COMPARED = ClipComparison.of(None, None, None, CLIPS)
NO_INT8 = Recipe().keep((".",), "fp32", "-")


def test_float_is_no_distance_from_float_and_int8_is_some(planned: Plan, calibration: Calibration) -> None:
    scores = Evaluations(planned, calibration, COMPARED)
    same, int8 = scores.scores([NO_INT8, Recipe()])
    assert same.error == pytest.approx(0, abs=1e-9) and same.drop == 0
    assert int8.error > same.error
    assert int8.f1 is not None


def test_a_part_alone_does_less_harm_than_all_and_all_without_it_less_too(planned: Plan, calibration: Calibration) -> None:
    scores = Evaluations(planned, calibration, COMPARED)
    whole = scores.score(Recipe()).error
    worst = max(find_parts(planned), key=lambda p: scores.score(only(Recipe(), p)).error)
    assert 0 < scores.score(only(Recipe(), worst)).error <= whole * 1.5
    assert scores.score(keeping(Recipe(), [worst])).error < whole


def test_two_processes_score_the_same(planned: Plan, calibration: Calibration) -> None:
    recipes = [Recipe(), NO_INT8, load_recipe("int8-mse")]
    one, two = (list(Evaluations(planned, calibration, COMPARED, jobs=n).scores(recipes)) for n in (1, 2))
    assert one == two


def test_an_interrupted_run_goes_on(
    planned: Plan, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.jsonl"
    first = list(Evaluations(planned, calibration, COMPARED, log).scores([Recipe(), load_recipe("int8-mse")]))
    with log.open("a") as file:
        file.write('\n{"key": "cut off')
    real, asked = module._answers, []
    monkeypatch.setattr(module, "_answers", lambda *a: asked.append(a[1]) or real(*a))
    again = Evaluations(planned, calibration, COMPARED, log)
    # The same by another name is the same.
    same = Recipe("other", rules=(load_recipe("int8-min-max").rules))
    assert list(again.scores([same, load_recipe("int8-mse")])) == first
    assert asked == [None]  # float alone
    Evaluations(planned, calibration, ClipComparison(tuple(CLIPS[1:]), "others"), log).score(
        Recipe()
    )  # other clips: another score
    assert len(asked) == 3
    assert len([json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]) >= 2
