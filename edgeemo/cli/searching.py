"""Options and steps that `edgeemo analyze` and `edgeemo tune` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeemo.cli.options import CalibrationOptions, Decorator, data_options, gathered, target_option
from edgeemo.console import show_table, warn

if TYPE_CHECKING:
    from edgeemo.analyze.comparisons import Comparison
    from edgeemo.analyze.evaluations import Evaluations
    from edgeemo.data.clips import Clip
    from edgeemo.onnxlib.contract import StreamContract
    from edgeemo.quantize.calibration.runner import Calibration
    from edgeemo.quantize.calibration.sources import Source
    from edgeemo.quantize.plan import Plan

SAMPLE_STEPS = 256  # steps that local errors and ranges per channel are of


@dataclass(frozen=True)
class SearchOptions:
    """The values of ``search_options``."""

    data: Path | None
    split: str | None
    limit: int | None
    max_f1_drop: float | None
    min_sqnr: float | None
    target: str
    budget: int

    def comparison(self, feeds: Path | None, calibration: Sequence[Clip], contract: StreamContract | None) -> Comparison:
        """Clips of --data, or feeds of it where ``feeds`` were calibrated on; without --data what was calibrated on.

        Raises UsageError where --max-f1-drop has no labels to go by."""
        from edgeemo.analyze.comparisons import ClipComparison, FeedComparison

        compared: Comparison
        if feeds is None:
            hears = contract.hears if contract else "window"
            compared = ClipComparison.of(self.data, self.split, self.limit, calibration, hears)
        elif self.split is not None:
            raise click.UsageError("--split is of a folder of clips; with --feeds, --data is one of .npz files")
        else:
            compared = FeedComparison.of(self.data or feeds, self.limit)
        if self.max_f1_drop is not None and not compared.labelled:
            raise click.UsageError(f"--max-f1-drop needs labels, and none of {compared.on} has one; --min-sqnr does without")
        return compared


def search_options(limit: int | None, budget: int) -> Decorator:
    """Data to compare on and the recipe that is asked for, given to the verb as ``searching``."""
    return gathered(
        SearchOptions,
        "searching",
        [
            data_options(None, limit=limit, folder="Clips (with --feeds: feeds) to compare on [default: those calibrated on].",
                         split="Only this split of --data's manifest [default: dev, where it has it]."),
            click.option("--max-f1-drop", type=click.FloatRange(-1, 1), default=None,
                         help="Find a recipe that loses no more macro-F1."),
            click.option("--min-sqnr", type=float, default=None, help="Find one whose answers have this SQNR, dB."),
            target_option("Board whose cycles a recipe is counted in"),
            click.option("--budget", type=click.IntRange(2), default=budget, help="Most evaluations that the search may take."),
        ],
    )  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A model that is calibrated, and what recipes for it are scored by."""

    planned: Plan
    source: Source
    calibration: Calibration
    compared: Comparison
    evaluations: Evaluations
    warnings: list[str]

    @property
    def about(self) -> dict[str, Any]:
        """The part of a search's document that says which data it was."""
        c = self.calibration
        on = {"files": len(self.compared.files), "on": self.compared.on, "measure": self.compared.measure}
        return {"calibration": {"files": c.clips, "steps": c.steps, "data_sha256": c.data_sha256}, "evaluation": on}


def prepare(model: Path, calibrating: CalibrationOptions, searching: SearchOptions, folder: Path) -> Prepared:
    """Plans the chosen recipe and calibrates, both sets of files looked at first. Scores are kept in ``folder``."""
    from edgeemo.analyze.evaluations import LOG, Evaluations
    from edgeemo.onnxlib.load import load_onnx
    from edgeemo.quantize.plan import plan

    planned = plan(load_onnx(model), str(model), calibrating.chosen_recipe(searching.target))
    source, clips, said = calibrating.source(planned)
    compared = searching.comparison(calibrating.feeds, clips, planned.contract)
    warn(said)
    calibration = calibrating.observe(planned, source, sample_steps=SAMPLE_STEPS)
    evaluations = Evaluations(planned, calibration, compared, folder / LOG, calibrating.jobs, calibrating.cluster)
    return Prepared(planned, source, calibration, compared, evaluations, said)


def show_points(asked: str, measure: str, points: list[dict[str, Any]], best: int | None) -> None:
    """The recipes that a search scored, as a table."""
    rows = [
        [p["does"], f"{p['error']:.2e}", f"{p['sqnr_db']:.1f}", "" if p["drop"] is None else f"{p['drop']:+.4f}",
         f"{p['more_bytes'] / 1e3:.0f}", "" if p["more_cycles"] is None else f"{p['more_cycles'] / 1e3:.1f}",
         "proposed" if i == best else ""] for i, p in enumerate(points)
    ]  # fmt: skip
    columns = ["recipe", measure, "SQNR dB", "F1 drop", "kB more", "k cycles more (estimated)", ""]
    show_table(f"asked for {asked}", columns, rows)
