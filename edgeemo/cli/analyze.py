"""`edgeemo analyze`: which layer hurts, and the recipe that mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeemo.cli.quantize import CalibrationOptions, calibration_options
from edgeemo.console import BUILD, FLOAT_MODEL, output_options, print_json, progress_bar, show_table, user_errors, warn
from edgeemo.files import check_output, write_file

if TYPE_CHECKING:
    from edgeemo.analyze.comparisons import Score

SAMPLE_STEPS = 256  # steps that local errors and ranges per channel are of
HALF_THE_NOISE = 3.0  # dB


@click.command()
@click.argument("model", type=click.Path(path_type=Path), default=FLOAT_MODEL)
@calibration_options
@click.option("--data", type=click.Path(path_type=Path), default=None,
              help="Clips (with --feeds: feeds) to compare on [default: those calibrated on].")  # fmt: skip
@click.option("--data-split", default=None, help="Split of --data [default: dev, where its manifest has one].")
@click.option("--data-clips", "data_limit", type=click.IntRange(1), default=64, help="So many of them, evenly spread.")
@click.option("--max-f1-drop", type=click.FloatRange(-1, 1), default=None, help="Propose a recipe that loses no more macro-F1.")
@click.option("--min-sqnr", type=float, default=None, help="Propose one whose answers have this SQNR, dB [default: 3 dB more].")
@click.option("--target", "target_name", default="aarch64-neon", help="Board whose cycles a proposal is counted in.")
@click.option("--budget", type=click.IntRange(2), default=40, help="Most evaluations that the proposal may take.")
@click.option("--propose", type=click.Path(path_type=Path), default=BUILD / "proposed.toml", help="Where the recipe goes.")
@output_options("build/analysis.html")
@user_errors
def analyze(
    model: Path,
    calibrating: CalibrationOptions,
    data: Path | None,
    data_split: str | None,
    data_limit: int,
    max_f1_drop: float | None,
    min_sqnr: float | None,
    target_name: str,
    budget: int,
    propose: Path,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Say which layers of MODEL suffer from INT8 under a recipe, and propose a better one.

    Writes a page with plots and a recipe for `edgeemo quantize --recipe`. What was scored is kept beside the page in
    evaluations.jsonl: an interrupted run goes on from there.
    """
    from edgeemo.analyze import report
    from edgeemo.analyze.comparisons import ClipComparison, Comparison, FeedComparison
    from edgeemo.analyze.evaluations import LOG, Evaluations
    from edgeemo.analyze.local import study
    from edgeemo.analyze.parts import find_parts
    from edgeemo.analyze.search import measure_sensitivity, search, with_better_observers
    from edgeemo.onnxlib.load import load_onnx
    from edgeemo.quantize.plan import plan
    from edgeemo.targets.board import load_target

    chosen = calibrating.chosen_recipe()
    page = check_output(out or BUILD / "analysis.html", force)
    check_output(propose, force)
    board = load_target(target_name)
    planned = plan(load_onnx(model), str(model), chosen)
    source, clips, said = calibrating.source(planned)
    compared: Comparison
    if calibrating.feeds is None:
        compared = ClipComparison.of(data, data_split, data_limit, clips)
    else:
        compared = FeedComparison.of(data or calibrating.feeds, data_limit)
    if max_f1_drop is not None and not compared.labelled:
        raise click.UsageError(f"--max-f1-drop needs labels, and none of {compared.on} has one; --min-sqnr does without")
    warn(said)
    calibration = calibrating.observe(planned, source, sample_steps=SAMPLE_STEPS)
    evaluations = Evaluations(planned, calibration, compared, page.parent / LOG, calibrating.jobs, calibrating.cluster)
    parts = find_parts(planned)
    local = {p.name: study(p, calibration, planned.scalings) for p in parts}
    with progress_bar(f"each of {len(parts)} parts alone in INT8, and all but it", 2 * len(parts)) as advance:
        found = measure_sensitivity(chosen, parts, evaluations, advance)
    base = evaluations.score(chosen)
    asked, good = _wish(max_f1_drop, min_sqnr, base)
    with progress_bar("searching a better recipe", budget) as advance:
        tuned = with_better_observers(chosen, parts, calibration, planned.scalings)
        proposal = search(chosen, parts, local, tuned, evaluations, good, budget, board, exhaustive=True, progress=advance)
    about = f"found by edgeemo analyze, from {calibrating.recipe}, for {model} on {compared.on}"
    toml = report.proposal_toml(proposal, asked, about, compared.measure)
    document: dict[str, Any] = {
        "model": str(model),
        "recipe": chosen.name,
        "calibration": {"files": calibration.clips, "steps": calibration.steps, "data_sha256": calibration.data_sha256},
        "evaluation": {"files": len(compared.files), "on": compared.on, "measure": compared.measure},
        "base": asdict(base),
        "parts": report.part_rows(found, local, chosen),
        "proposal": {
            "asked": asked,
            "target": board.name,
            "file": str(propose) if toml else None,
            "toml": toml,
            "best": None if proposal.best is None else proposal.points.index(proposal.best),
            "points": report.point_rows(proposal.points),
        },
    }
    write_file(page, report.render(document, found, local, proposal).encode(), force)
    if toml is not None:
        write_file(propose, toml.encode(), force)
    if as_json:
        print_json(document)
        return
    _print(document)
    click.echo(
        f"{page}: all of it, with plots" + (f"; {propose}: the proposed recipe" if toml else "; no recipe reaches what was asked")
    )


def _wish(max_f1_drop: float | None, min_sqnr: float | None, base: Score) -> tuple[str, Callable[[Score], bool]]:
    """What a recipe has to reach, in words and as a test."""
    words = [] if max_f1_drop is None else [f"a drop of macro-F1 of at most {max_f1_drop}"]
    least = base.sqnr_db + HALF_THE_NOISE if min_sqnr is None and max_f1_drop is None else min_sqnr
    words += [] if least is None else [f"an SQNR of the answers of at least {least:.1f} dB"]

    def good(score: Score) -> bool:
        holds = max_f1_drop is None or (score.drop is not None and score.drop <= max_f1_drop)
        return holds and (least is None or score.sqnr_db >= least)

    return " and ".join(words), good


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
    rows = [
        [p["does"], f"{p['error']:.2e}", f"{p['sqnr_db']:.1f}", "" if p["drop"] is None else f"{p['drop']:+.4f}",
         f"{p['more_bytes'] / 1e3:.0f}", "" if p["more_cycles"] is None else f"{p['more_cycles'] / 1e3:.1f}",
         "proposed" if i == d["proposal"]["best"] else ""] for i, p in enumerate(d["proposal"]["points"])
    ]  # fmt: skip
    columns = ["recipe", measure, "SQNR dB", "F1 drop", "kB more", "k cycles more (estimated)", ""]
    show_table(f"asked for {d['proposal']['asked']}", columns, rows)
