"""`edgeemo tune`: the cheapest recipe that is good enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.cli.options import FILE, CalibrationOptions, calibration_options, output_options
from edgeemo.cli.searching import Prepared, SearchOptions, prepare, search_options, show_points
from edgeemo.console import BUILD, FLOAT_MODEL, print_json, progress_bar, user_errors, warn
from edgeemo.files import check_output, write_file

if TYPE_CHECKING:
    from edgeemo.analyze.goal import Goal
    from edgeemo.analyze.search import Found
    from edgeemo.quantize.recipe import Recipe


@click.command()
@click.argument("model", type=FILE, default=FLOAT_MODEL)
@calibration_options
@search_options(limit=None, budget=60)
@click.option("--save-model", type=FILE, default=None, metavar="FILE", help="Quantize by the recipe as well (QDQ ONNX).")
@output_options("build/tuned.toml")
@user_errors
def tune(
    model: Path, calibrating: CalibrationOptions, searching: SearchOptions, save_model: Path | None,
    out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Search the cheapest recipe by which MODEL reaches --max-f1-drop or --min-sqnr; `edgeemo quantize --recipe` takes it.

    Begins with --recipe, stops at the first that is good enough, and takes back what was not needed. Exit code 1, nothing
    written, where --budget evaluations find none; what was scored is kept next to the output in evaluations.jsonl: an interrupted
    run goes on from there.
    """
    from edgeemo.analyze import report
    from edgeemo.analyze.goal import Goal

    goal = Goal(searching.max_f1_drop, searching.min_sqnr)
    if goal == Goal(None, None):
        raise click.UsageError("say what the recipe has to reach: --max-f1-drop, --min-sqnr, or both")
    written = check_output(out or BUILD / "tuned.toml", force)
    if save_model is not None:
        check_output(save_model, force)
    ready = prepare(model, calibrating, searching, written.parent)
    found = _search(ready, searching, goal, written.parent)
    assert found.best is not None
    recipe = replace(found.best.recipe, name=written.stem)
    about = f"found by edgeemo tune, from {ready.planned.recipe.name}, for {model} on {ready.compared.on}"
    comment = report.proposal_toml_comment(found, str(goal), about, ready.compared.measure)
    quantized, said = _quantize(ready, recipe) if save_model is not None else (b"", [])
    write_file(written, recipe.to_toml(comment).encode(), force)
    if save_model is not None:
        write_file(save_model, quantized, force)
    document: dict[str, Any] = {
        "out": str(written),
        "model": None if save_model is None else str(save_model),
        **ready.about,
        "asked": str(goal),
        "target": searching.target,
        "best": found.points.index(found.best),
        "points": report.point_rows(found.points),
        "warnings": [*ready.warnings, *said],
    }
    if as_json:
        print_json(document)
        return
    show_points(document["asked"], ready.compared.measure, document["points"], document["best"])
    click.echo(f"{written}: the recipe" + (f"; {save_model}: the model, {len(quantized) / 1e6:.2f} MB" if save_model else ""))


def _search(ready: Prepared, searching: SearchOptions, goal: Goal, kept: Path) -> Found:
    """Raises EdgeEmoError where no recipe is good enough, with the nearest."""
    from edgeemo.analyze.evaluations import LOG
    from edgeemo.analyze.search import find_recipe
    from edgeemo.targets.board import load_target

    what = f"searching a recipe on {ready.compared.on}, at most {searching.budget} evaluations"
    with progress_bar(what, searching.budget) as advance:
        board = load_target(searching.target)
        found = find_recipe(ready.planned, ready.calibration, ready.evaluations, goal, searching.budget, board, advance)
    if found.best is not None:
        return found
    nearest = min(found.points, key=lambda p: goal.miss(p.score))
    drop = "" if nearest.score.drop is None else f"a drop of {nearest.score.drop:.4f}, "
    parts = ", ".join(p.name for p in nearest.kept) or "no part"
    raise EdgeEmoError(
        f"no recipe of {len(found.points)} within --budget {searching.budget} reaches {goal}; nearest: {drop}"
        f"{nearest.score.sqnr_db:.1f} dB, keeping {parts}; what was scored is kept in {kept / LOG}, a larger --budget goes on "
        "from it"
    )


def _quantize(ready: Prepared, recipe: Recipe) -> tuple[bytes, list[str]]:
    """The model by the recipe found, on the ranges that are there, and what to warn of."""
    from edgeemo.quantize.findings import warnings_of
    from edgeemo.quantize.plan import plan, quantize_plan

    planned = plan(ready.planned.model, "", recipe)
    quantized, report = quantize_plan(planned, ready.calibration)
    said = warnings_of(planned, ready.calibration, quantized, report, ready.source)
    warn(said)
    return quantized.SerializeToString(deterministic=True), said
