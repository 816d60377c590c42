"""The search over a model whose answers are a sum of its parts' errors: what it finds can be said beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from edgeemo.analyze.comparisons import Score
from edgeemo.analyze.local import Local
from edgeemo.analyze.parts import Part
from edgeemo.analyze.search import Found, precision_to_keep, search
from edgeemo.quantize.calibration.observer import ActivationScaling
from edgeemo.quantize.layers import Layer
from edgeemo.quantize.recipe import Recipe, Rule
from edgeemo.quantize.weights import WeightScaling
from edgeemo.targets.board import load_target

START = Recipe(threshold="kl")
HARM = {"a": 8.0, "b": 4.0, "c": 2.0, "d": 1.0}


def part(name: str, scale: float = 1.0) -> Part:
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name=name)
    weight = np.full((4, 4), scale, dtype=np.float32)
    return Part(
        name,
        "MatMul",
        (name,),
        (Layer(name, "MatMul", node, "x", "w", weight, 1, "int8", WeightScaling("min-max"), ActivationScaling("kl")),),
        ("x",),
        16,
    )


PARTS = [part(n) for n in HARM]


class Additive:
    """Harm of every part in INT8, summed; half of it with the threshold mse."""

    def __init__(self) -> None:
        self.asked = 0

    def score(self, recipe: Recipe) -> Score:
        self.asked += 1
        harm = [
            h * (0.5 if recipe.activation_scaling(n).threshold == "mse" else 1.0)
            for n, h in HARM.items()
            if recipe.precision(n) == "int8"
        ]
        return Score(sum(harm), 0.0, 0.5, sum(harm) / 100)

    def scores(self, recipes: Sequence[Recipe], progress: Any = None) -> list[Score]:
        return [self.score(r) for r in recipes]


def local(sqnr: float) -> Local:
    nothing = np.zeros(1)
    return Local(sqnr, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, nothing, nothing, nothing)


def run(limit: float, budget: int = 40, tuned: Recipe | None = None, exhaustive: bool = False) -> tuple[Found, int]:
    scores = Additive()
    locals_ = {n: local(20 - h) for n, h in HARM.items()}
    found = search(START, PARTS, locals_, tuned or START, scores, lambda s: s.error <= limit, budget,  # type: ignore[arg-type]
                   load_target("aarch64-neon"), exhaustive)  # fmt: skip
    return found, scores.asked


def test_nothing_is_kept_where_nothing_needs_to_be() -> None:
    found, asked = run(15.0)
    assert found.best is not None and found.best.kept == () and asked == 1


def test_thresholds_cost_nothing_and_are_tried_first() -> None:
    tuned = replace(START, rules=(Rule("^a$", threshold="mse"),))
    found, _ = run(11.0, tuned=tuned)
    assert found.best is not None
    assert found.best.recipe.rules == tuned.rules
    assert (found.best.kept, found.best.more_bytes, found.best.more_cycles) == ((), 0, 0)


def test_the_most_harmful_are_kept_and_no_more_than_needed() -> None:
    found, _ = run(4.0)
    assert found.best is not None
    assert [p.name for p in found.best.kept] == ["a", "b"]
    assert found.best.more_bytes == 2 * (16 * 2 - (16 + 4 * 4))
    rates = load_target("aarch64-neon").macs_per_cycle
    assert found.best.more_cycles == pytest.approx(2 * 16 * (1 / rates["fp16"] - 1 / rates["int8"]))


def test_what_was_not_needed_is_taken_back() -> None:
    """A limit of 10.5 needs b and c gone, or a alone: a comes first and is enough."""
    found, _ = run(7.5)
    assert found.best is not None and [p.name for p in found.best.kept] == ["a"]


@pytest.mark.parametrize("budget", [2, 5, 9])
def test_the_budget_holds_and_an_impossible_wish_ends_without_a_recipe(budget: int) -> None:
    found, asked = run(-1.0, budget)
    assert found.best is None
    assert asked <= budget


def test_an_exhaustive_search_shows_what_every_step_brings() -> None:
    found, _ = run(100.0, exhaustive=True)
    assert [len(p.kept) for p in found.points] == [0, 1, 2, 3, 4]
    assert found.best is found.points[0]


def test_weights_that_fp16_cannot_hold_stay_in_fp32() -> None:
    assert precision_to_keep(part("a", 0.3)) == "fp16"
    assert precision_to_keep(part("a", 1e6)) == "fp32"
    assert precision_to_keep(part("a", 1e-9)) == "fp32"
