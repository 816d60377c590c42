"""`edgeemo analyze`: which layer hurts, and the recipe that mends it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeemo.cli.options import FILE, CalibrationOptions, calibration_options, output_options
from edgeemo.cli.searching import Prepared, SearchOptions, prepare, search_options, show_points
from edgeemo.console import BUILD, FLOAT_MODEL, print_json, progress_bar, show_table, user_errors
from edgeemo.files import check_output, write_file

if TYPE_CHECKING:
    from edgeemo.analyze.goal import Goal
    from edgeemo.analyze.local import Local
    from edgeemo.analyze.search import Found, Sensitivity


@click.command()
@click.argument("model", type=FILE, default=FLOAT_MODEL)
@calibration_options
@search_options(limit=64, budget=40)
@click.option(
    "--save-recipe", type=FILE, default=BUILD / "proposed.toml", metavar="FILE", help="Keep the recipe proposed (TOML)."
)
@output_options("build/analysis.html")
@user_errors
def analyze(
    model: Path, calibrating: CalibrationOptions, searching: SearchOptions, save_recipe: Path,
    out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Say which layers of MODEL suffer from INT8 under a recipe, and propose a better one.

    Writes a page with plots and a recipe for `edgeemo quantize --recipe`, for 3 dB more SQNR if nothing else is asked for. What
    was scored is kept next to the page in evaluations.jsonl: an interrupted run goes on from there.
    """
    from edgeemo.analyze import report

    page = check_output(out or BUILD / "analysis.html", force)
    check_output(save_recipe, force)
    ready = prepare(model, calibrating, searching, page.parent)
    local, found, goal, proposal = _study(ready, searching)
    about = f"found by edgeemo analyze, from {ready.planned.recipe.name}, for {model} on {ready.compared.on}"
    toml = report.proposal_toml(proposal, str(goal), about, ready.compared.measure)
    document: dict[str, Any] = {
        "model": str(model),
        "recipe": ready.planned.recipe.name,
        **ready.about,
        "base": asdict(proposal.points[0].score),
        "parts": report.part_rows(found, local, ready.planned.recipe),
        "proposal": {
            "asked": str(goal),
            "target": searching.target,
            "file": str(save_recipe) if toml else None,
            "toml": toml,
            "best": None if proposal.best is None else proposal.points.index(proposal.best),
            "points": report.point_rows(proposal.points),
        },
    }
    write_file(page, report.render(document, found, local, proposal).encode(), force)
    if toml is not None:
        write_file(save_recipe, toml.encode(), force)
    if as_json:
        print_json(document)
        return
    _print(document)
    proposed = f"; {save_recipe}: the proposed recipe" if toml else "; no recipe reaches what was asked"
    click.echo(f"{page}: all of it, with plots{proposed}")


def _study(ready: Prepared, searching: SearchOptions) -> tuple[dict[str, Local], list[Sensitivity], Goal, Found]:
    """Every part by itself, every part's effect on the answers, and the search for a better recipe."""
    from edgeemo.analyze.goal import Goal
    from edgeemo.analyze.local import study
    from edgeemo.analyze.parts import find_parts
    from edgeemo.analyze.search import measure_sensitivity, search, with_better_thresholds
    from edgeemo.targets.board import load_target

    planned, calibration, board = ready.planned, ready.calibration, load_target(searching.target)
    recipe, parts = planned.recipe, find_parts(planned)
    local = {p.name: study(p, calibration, planned.scalings) for p in parts}
    with progress_bar(f"each of {len(parts)} parts alone in INT8, and all but it", 2 * len(parts)) as advance:
        found = measure_sensitivity(recipe, parts, ready.evaluations, advance)
    goal = Goal(searching.max_f1_drop, searching.min_sqnr).or_half_the_noise(ready.evaluations.score(recipe))
    with progress_bar("searching a better recipe", searching.budget) as advance:
        tuned = with_better_thresholds(recipe, parts, calibration, planned.scalings)
        proposal = search(recipe, parts, local, tuned, ready.evaluations, goal.reached, searching.budget, board,
                          exhaustive=True, progress=advance)  # fmt: skip
    return local, found, goal, proposal


def _print(d: dict[str, Any]) -> None:
    measure = d["evaluation"]["measure"]
    rows = [
        [r["name"], r["precision"], f"{r['sqnr_db']:.1f}", f"{r['cosine']:.5f}", f"{r['saturation']:.3%}", r["outlier_channels"],
         f"{r['alone_error']:.1e}", f"{r['without_error']:.1e}"] for r in d["parts"]
    ]  # fmt: skip
    columns = ["part, most harmful first", "precision", "SQNR dB", "cosine", "beyond", "outliers", f"{measure} alone", "without"]
    base = d["base"]
    drop = "" if base["drop"] is None else f", macro-F1 drop {base['drop']:+.4f}"
    title = f"{d['recipe']}: {measure} {base['error']:.3g}, SQNR {base['sqnr_db']:.1f} dB{drop}, on {d['evaluation']['on']}"
    show_table(title, columns, rows)
    show_points(d["proposal"]["asked"], measure, d["proposal"]["points"], d["proposal"]["best"])
