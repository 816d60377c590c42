"""Which parts hurt, end to end, and a search for the cheapest recipe that is good enough: first other thresholds, which cost
nothing, then parts kept in FP16 or FP32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeemo.analyze.comparisons import Score
from edgeemo.analyze.evaluations import Evaluations
from edgeemo.analyze.goal import Goal
from edgeemo.analyze.local import Local, sqnr_by_threshold, study
from edgeemo.analyze.parts import Part, find_parts
from edgeemo.quantize.calibration.observer import Scalings
from edgeemo.quantize.calibration.runner import Calibration, Progress
from edgeemo.quantize.plan import Plan
from edgeemo.quantize.recipe import Recipe, Rule
from edgeemo.quantize.report import sqnr_db
from edgeemo.targets.board import BoardTarget

FP16_SQNR_DB = 60.0  # of weights in FP16: below it some of them overflow or are subnormal, and FP32 it is
GAIN_DB = 1.0  # of local SQNR that another threshold has to bring
ORIGIN = "search"


@dataclass(frozen=True)
class Sensitivity:
    """``alone``: only that part in INT8. ``without``: all but that part."""

    part: Part
    alone: Score
    without: Score


@dataclass(frozen=True)
class Point:
    """A recipe, what it scores, and what the parts it keeps cost next to the recipe the search began with."""

    recipe: Recipe
    kept: tuple[Part, ...]
    score: Score
    more_bytes: int
    more_cycles: float | None


@dataclass(frozen=True)
class Found:
    """``points`` in the order they were scored, the recipe it began with first; ``best``: the cheapest that is good enough."""

    points: tuple[Point, ...]
    best: Point | None


def precision_to_keep(part: Part) -> str:
    """FP16 where its weights bear it: it costs a board without half-precision arithmetic no more time than FP32, and half the
    bytes. An attention's inputs have no weights and stay FP32."""
    if not part.layers:
        return "fp32"
    weight = part.layers[0].weight
    return "fp16" if sqnr_db(weight, np.clip(weight, -65504, 65504).astype(np.float16)) >= FP16_SQNR_DB else "fp32"


def keeping(recipe: Recipe, parts: Sequence[Part]) -> Recipe:
    rules = tuple(Rule(p.pattern, precision_to_keep(p), origin=ORIGIN) for p in parts)
    return replace(recipe, rules=(*recipe.rules, *rules))


def only(recipe: Recipe, part: Part) -> Recipe:
    """That part in INT8, all others in float."""
    return replace(recipe, rules=(*recipe.rules, Rule(".", "fp32", origin=ORIGIN), Rule(part.pattern, "int8", origin=ORIGIN)))


def measure_sensitivity(
    recipe: Recipe, parts: Sequence[Part], evaluations: Evaluations, progress: Progress = lambda done: None
) -> list[Sensitivity]:
    """Two evaluations per part."""
    variants = [only(recipe, p) for p in parts] + [keeping(recipe, [p]) for p in parts]
    scores = list(evaluations.scores(variants, progress))
    return [Sensitivity(p, a, w) for p, a, w in zip(parts, scores[: len(parts)], scores[len(parts) :], strict=True)]


def with_better_thresholds(recipe: Recipe, parts: Sequence[Part], calibration: Calibration, scalings: Scalings) -> Recipe:
    """The recipe with every INT8 part's own best threshold method, where that brings GAIN_DB of its SQNR."""
    rules = []
    for part in parts:
        if recipe.precision(part.members[0]) != "int8":
            continue
        found = sqnr_by_threshold(part, calibration, scalings)
        best = max(found, key=lambda o: found[o])
        if found[best] >= found[scalings[part.tensors[0]].threshold] + GAIN_DB:
            rules.append(Rule(part.pattern, threshold=best, origin=ORIGIN))
    return replace(recipe, rules=(*recipe.rules, *rules))


def search(
    recipe: Recipe,
    parts: Sequence[Part],
    local: dict[str, Local],
    tuned: Recipe,
    evaluations: Evaluations,
    good: Callable[[Score], bool],
    budget: int,
    board: BoardTarget,
    exhaustive: bool = False,
    progress: Progress = lambda done: None,
) -> Found:
    """Scores ``recipe``; then ``tuned``, the same with better thresholds; then, on the nearer of the two to float, keeps one part
    after another, the one that does most harm per cycle first, until ``good``; then takes back each that was not needed. At
    most ``budget`` evaluations, up to half of them to learn which parts harm: the worst by their SQNR in ``local``.
    ``exhaustive`` goes on when a recipe is good, for a plot of what every step brings."""
    spent = 0

    def point(base: Recipe, kept: Sequence[Part]) -> Point:
        nonlocal spent
        spent += 1
        tried = keeping(base, kept)
        costs = [_cost(p, recipe, board) for p in kept]
        cycles = None if any(c is None for _, c in costs) else sum(c or 0.0 for _, c in costs)
        found = Point(tried, tuple(kept), evaluations.score(tried), sum(b for b, _ in costs), cycles)
        progress(1)
        return found

    points = [point(recipe, ())]
    best = points[0] if good(points[0].score) else None
    if best is not None and not exhaustive:
        return Found(tuple(points), best)
    if tuned != recipe:
        points.append(point(tuned, ()))
        best = points[-1] if best is None and good(points[-1].score) else best
        if best is not None and not exhaustive:
            return Found(tuple(points), best)
    base = min(points, key=lambda p: p.score.error).recipe
    int8 = [p for p in parts if recipe.precision(p.members[0]) == "int8"]
    suspects = sorted(int8, key=lambda p: local[p.name].sqnr_db)[: max(budget // 2 - spent, 0)]
    spent += len(suspects)
    harm = [s.error for s in evaluations.scores([only(base, p) for p in suspects], progress)]
    worth = {p.name: h / max(_cost(p, recipe, board)[1] or p.macs, 1.0) for p, h in zip(suspects, harm, strict=True)}
    ranked = sorted(suspects, key=lambda p: worth[p.name], reverse=True)
    for last in range(1, len(ranked) + 1):
        if spent >= budget or (best is not None and not exhaustive):
            break
        points.append(point(base, ranked[:last]))
        best = points[-1] if best is None and good(points[-1].score) else best
    if best is not None and not exhaustive:
        for part in reversed(best.kept[:-1]):
            if spent >= budget:
                break
            points.append(point(base, [p for p in best.kept if p is not part]))
            best = points[-1] if good(points[-1].score) else best
    return Found(tuple(points), best)


def find_recipe(
    planned: Plan,
    calibration: Calibration,
    evaluations: Evaluations,
    goal: Goal,
    budget: int,
    board: BoardTarget,
    progress: Progress = lambda done: None,
) -> Found:
    """The search for a recipe that reaches ``goal``, from the plan's, with all it needs to know of the parts."""
    parts = find_parts(planned)
    local = {p.name: study(p, calibration, planned.scalings) for p in parts}
    tuned = with_better_thresholds(planned.recipe, parts, calibration, planned.scalings)
    return search(planned.recipe, parts, local, tuned, evaluations, goal.reached, budget, board, progress=progress)


def _cost(part: Part, recipe: Recipe, board: BoardTarget) -> tuple[int, float | None]:
    """Bytes and cycles more than under ``recipe`` when a part is kept."""
    before, after = recipe.precision(part.members[0]), precision_to_keep(part)
    cycles, instead = (part.cycles(p, recipe, board) for p in (before, after))
    return part.bytes(after) - part.bytes(before), None if cycles is None or instead is None else instead - cycles
