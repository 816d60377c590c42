"""`edgeemo quantize` and `edgeemo recipes`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.console import FLOAT_MODEL, INT8_MODEL, output_options, print_json, progress_bar, show_table, user_errors, warn
from edgeemo.data.clips import Clip
from edgeemo.files import check_output, write_file
from edgeemo.quantize import DEFAULT_RECIPE

if TYPE_CHECKING:
    from edgeemo.quantize.calibration.runner import Calibration
    from edgeemo.quantize.calibration.sources import Source
    from edgeemo.quantize.plan import Plan
    from edgeemo.quantize.recipe import Recipe
    from edgeemo.quantize.report import LayerReport


@dataclass(frozen=True)
class CalibrationOptions:
    """What ``calibration_options`` asks for."""

    recipe: str
    observer: str | None
    calib: Path
    split: str | None
    limit: int | None
    feeds: Path | None
    jobs: int
    cluster: str | None

    def chosen_recipe(self) -> Recipe:
        """The named one, with the observer of ``--observer`` where that is given."""
        from edgeemo.quantize.recipe import load_recipe
        from edgeemo.quantize.thresholds import THRESHOLDS

        if self.observer is not None and self.observer not in THRESHOLDS:
            raise click.UsageError(f"--observer {self.observer}: there are {', '.join(THRESHOLDS)}")
        recipe = load_recipe(self.recipe)
        return replace(recipe, observer=self.observer or recipe.observer)

    def source(self, planned: Plan) -> tuple[Source, list[Clip], list[str]]:
        """What to calibrate on; its clips (none of feeds), and what to warn of. Raises EdgeEmoError where nothing fits the
        model."""
        from edgeemo.quantize.calibration.checks import warnings
        from edgeemo.quantize.calibration.sources import ClipSource, FeedSource
        from edgeemo.quantize.plan import stream_contract

        if self.feeds is not None:
            from edgeemo.quantize.findings import feed_warnings

            feeds = FeedSource.of(self.feeds, self.limit)
            return feeds, [], feed_warnings(feeds, planned.model)
        contract = stream_contract(planned)
        clips = self._clips()
        return ClipSource.of(contract, clips), clips, warnings(clips, contract.sample_rate)

    def _clips(self) -> list[Clip]:
        """Raises EdgeEmoError where the folder or split has no clips, or they are of the manifest's test speakers."""
        from edgeemo.data.clips import MANIFEST, evenly, find_clips, read_manifest
        from edgeemo.quantize.calibration.checks import refuse_test_speakers

        clips = find_clips(self.calib) if self.split is None else read_manifest(self.calib, self.split)
        if (self.calib / MANIFEST).is_file():
            refuse_test_speakers(clips, clips if self.split is None else read_manifest(self.calib))
        return evenly(clips, self.limit)

    def observe(self, planned: Plan, source: Source, **options: int) -> Calibration:
        """Ranges of all that the plan quantizes, under a progress bar; ``options``: more for quantizer.observe."""
        from edgeemo.quantize.calibration.sources import files_of
        from edgeemo.quantize.plan import observe

        files = files_of(source)
        with progress_bar(f"calibrating on {len(files)} files, two passes", 2 * len(files)) as advance:
            return observe(planned, source, advance, self.jobs, self.cluster, **options)


def calibration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which clips, which recipe, and what does the work: of every verb that calibrates, given to it as ``calibrating``."""

    @functools.wraps(command)
    def gathered(*args: Any, **given: Any) -> Any:
        chosen = CalibrationOptions(**{f.name: given.pop(f.name) for f in fields(CalibrationOptions)})
        return command(*args, calibrating=chosen, **given)

    for option in (
        click.option("--cluster", default=None, metavar="dask://HOST:PORT", help="Send work to this Dask cluster."),
        click.option("--jobs", type=click.IntRange(0), default=1, help="Processes, 0 for one per core; results are the same."),
        click.option(
            "--feeds",
            type=click.Path(path_type=Path),
            default=None,
            metavar="DIR",
            help="Calibrate on .npz files of inputs instead of clips: for a model that hears no audio.",
        ),
        click.option(
            "--clips",
            "limit",
            type=click.IntRange(1),
            default=None,
            help="So many clips or feeds, evenly spread [default: all].",
        ),
        click.option("--split", default=None, help="Only this split of the folder's manifest [default: all clips]."),
        click.option(
            "--calib", type=click.Path(path_type=Path), default=Path("calibration"), help="Folder of clips (WAV, FLAC, OGG)."
        ),
        click.option("--observer", default=None, help="kl, mse, percentile or min-max [default: the recipe's]."),
        click.option("--recipe", default=DEFAULT_RECIPE, show_default=True, help="A name of `edgeemo recipes`, or a TOML file."),
    ):
        gathered = option(gathered)
    return gathered


@click.command()
@click.argument("model", type=click.Path(path_type=Path), default=FLOAT_MODEL)
@calibration_options
@click.option("--keep-fp16", multiple=True, metavar="NAME", help="Layer name or regex to keep in FP16, e.g. emotion_conv.")
@click.option("--keep-fp32", multiple=True, metavar="NAME", help="Layer name or regex to keep in FP32.")
@click.option(
    "--save-calibration", type=click.Path(path_type=Path), default=None, metavar="FILE", help="Keep the ranges found (JSON)."
)
@click.option("--calibration", "stored", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Use kept ranges instead of clips; with --calib as well, they must be of those clips.")  # fmt: skip
@click.option("--max-f1-drop", type=click.FloatRange(-1, 1), default=None, help="Search a recipe that loses no more macro-F1.")
@click.option("--on", "data", type=click.Path(path_type=Path), envvar="EDGEEMO_SPEECH", default=None,
              help="Labelled clips to search on, their dev split where they have one [default: those of --calib].")  # fmt: skip
@click.option("--target", "target_name", default="aarch64-neon", help="Board whose cycles --max-f1-drop counts.")
@click.option("--budget", type=click.IntRange(2), default=60, help="Most evaluations that a search may take.")
@click.option("--save-recipe", type=click.Path(path_type=Path), default=None, metavar="FILE", help="Keep the recipe used (TOML).")
@output_options(str(INT8_MODEL))
@click.pass_context
@user_errors
def quantize(
    context: click.Context,
    model: Path,
    calibrating: CalibrationOptions,
    keep_fp16: tuple[str, ...],
    keep_fp32: tuple[str, ...],
    save_calibration: Path | None,
    stored: Path | None,
    max_f1_drop: float | None,
    data: Path | None,
    target_name: str,
    budget: int,
    save_recipe: Path | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Quantize MODEL to INT8 (QDQ ONNX), its activations' thresholds from calibration clips."""
    if stored is not None and save_calibration is not None:
        raise click.UsageError("--save-calibration keeps what is found on clips; with --calibration nothing is")
    if calibrating.feeds is not None and max_f1_drop is not None:
        raise click.UsageError(
            "--max-f1-drop compares answers to clips; with --feeds, `edgeemo analyze --min-sqnr` finds a recipe"
        )
    if stored is not None and max_f1_drop is not None:
        raise click.UsageError("--max-f1-drop needs what a calibration file has not, layers' inputs: leave --calibration out")
    chosen = calibrating.chosen_recipe().keep(keep_fp16, "fp16", "--keep-fp16").keep(keep_fp32, "fp32", "--keep-fp32")
    target = check_output(out or INT8_MODEL, force)
    for kept in filter(None, (save_calibration, save_recipe)):
        check_output(kept, force)
    from edgeemo.onnxlib.load import load_onnx
    from edgeemo.quantize.calibration.cache import calibration_document, read_calibration
    from edgeemo.quantize.findings import answer_warnings, calibration_warnings, report_warnings
    from edgeemo.quantize.plan import plan, quantize_plan

    planned = plan(load_onnx(model), str(model), chosen)
    said: list[str] = []
    clips: list[Clip] = []
    source: Source | None = None
    if stored is None or calibrating.feeds is not None or context.get_parameter_source("calib") is not ParameterSource.DEFAULT:
        source, clips, said = calibrating.source(planned)
    if stored is not None:
        calibration, said = read_calibration(stored, planned, source), []
    else:
        assert source is not None
        calibration = calibrating.observe(planned, source)
    comment = ""
    if max_f1_drop is not None:
        from edgeemo.analyze.evaluations import LOG

        log = target.parent / LOG
        planned, comment = _search(planned, calibration, clips, max_f1_drop, data, budget, target_name, calibrating, log)
    quantized, report = quantize_plan(planned, calibration)
    said += calibration_warnings(planned, calibration) + report_warnings(report)
    if source is not None:
        said += answer_warnings(planned.model, quantized, source)
    warn(said)
    content = quantized.SerializeToString(deterministic=True)
    if save_calibration is not None:
        write_file(
            save_calibration, json.dumps(calibration_document(planned, calibration, calibrating.jobs), indent=1).encode(), force
        )
    if save_recipe is not None:
        write_file(save_recipe, planned.recipe.to_toml(comment).encode(), force)
    write_file(target, content, force)
    if as_json:
        print_json({"out": str(target), "bytes": len(content), "warnings": said, **json.loads(report.to_json())})
        return
    rows = [
        [
            r.name,
            r.op,
            _precision(r),
            _number(r.scale, ".5f"),
            _number(r.clipped, ".2f"),
            _number(r.sqnr_db, ".1f"),
            f"{r.bytes:,}",
        ]
        for r in report.layers
    ]
    columns = ["layer", "op", "precision", "input scale", "kept range", "SQNR dB", "bytes"]
    show_table(f"{report.recipe}: {report.clips} files, {report.steps} steps", columns, rows)
    click.echo(f"{target}: {len(content) / 1e6:.2f} MB (float {model.stat().st_size / 1e6:.2f} MB)")


def _search(
    planned: Plan, calibration: Calibration, clips: list[Clip], max_f1_drop: float, data: Path | None, budget: int,
    target_name: str, calibrating: CalibrationOptions, log: Path,
) -> tuple[Plan, str]:  # fmt: skip
    """The plan of the cheapest recipe found, and a comment on it. Raises EdgeEmoError where none is good enough."""
    from edgeemo.analyze.comparisons import ClipComparison
    from edgeemo.analyze.evaluations import Evaluations
    from edgeemo.analyze.report import proposal_toml_comment
    from edgeemo.analyze.search import find_recipe
    from edgeemo.quantize.plan import plan
    from edgeemo.targets.board import load_target

    compared = ClipComparison.of(data, None, None, clips)
    if not compared.labelled:
        raise EdgeEmoError(f"--max-f1-drop needs labels, and none of {compared.on} has one; --on names a folder with a manifest")
    evaluations = Evaluations(planned, calibration, compared, log, calibrating.jobs, calibrating.cluster)
    with progress_bar(f"searching a recipe on {compared.on}, at most {budget} evaluations", budget) as advance:
        found = find_recipe(planned, calibration, evaluations, max_f1_drop, budget, load_target(target_name), advance)
    if found.best is None:
        nearest = min(found.points, key=lambda p: p.score.drop or 0.0)
        kept = ", ".join(p.name for p in nearest.kept) or "no part"
        raise EdgeEmoError(
            f"no recipe of {len(found.points)} within --budget {budget} loses at most {max_f1_drop} of macro-F1; nearest: "
            f"{nearest.score.drop:.4f}, keeping {kept}; what was scored is kept in {log}, a larger --budget goes on from it"
        )
    asked = f"a drop of macro-F1 of at most {max_f1_drop}"
    about = f"found by edgeemo quantize --max-f1-drop on {compared.on}"
    return plan(planned.model, "", found.best.recipe), proposal_toml_comment(found, asked, about, compared.measure)


def _precision(row: LayerReport) -> str:
    return row.precision if row.precision == row.asked else f"{row.precision} (no {row.asked} kernel)"


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@user_errors
def recipes(as_json: bool) -> None:
    """List the recipes that quantize knows by name; --recipe takes a file of your own, too."""
    from edgeemo.quantize.recipe import load_recipe, recipe_names

    known = [load_recipe(n) for n in recipe_names()]
    if as_json:
        print_json({"recipes": [{"name": r.name, "observer": r.observer, "description": r.description} for r in known]})
    else:
        show_table("recipes", ["name", "observer", "what it does"], [[r.name, r.observer, r.description] for r in known])
