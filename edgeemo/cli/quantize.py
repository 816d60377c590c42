"""`edgeemo quantize`: float ONNX to INT8 ONNX by a recipe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from edgeemo.cli.options import FILE, CalibrationOptions, calibration_options, gathered, output_options, target_option
from edgeemo.console import FLOAT_MODEL, INT8_MODEL, print_json, progress_bar, show_table, user_errors, warn
from edgeemo.files import check_output, write_file

if TYPE_CHECKING:
    from edgeemo.quantize.calibration.runner import Calibration
    from edgeemo.quantize.calibration.sources import Source
    from edgeemo.quantize.plan import Plan
    from edgeemo.quantize.report import LayerReport, QuantizationReport


@dataclass(frozen=True)
class FileOptions:
    """Files of the verb besides its output."""

    save_calibration: Path | None
    calibration: Path | None
    save_recipe: Path | None

    def check(self, force: bool) -> None:
        if self.calibration is not None and self.save_calibration is not None:
            raise click.UsageError("--save-calibration keeps what is found on clips; with --calibration nothing is")
        for written in filter(None, (self.save_calibration, self.save_recipe)):
            check_output(written, force)


@click.command()
@click.argument("model", type=FILE, default=FLOAT_MODEL)
@calibration_options
@target_option("Board whose recipe is taken where --recipe names none")
@click.option("--keep-fp16", multiple=True, metavar="NAME", help="Layer name or regex to keep in FP16, e.g. emotion_conv.")
@click.option("--keep-fp32", multiple=True, metavar="NAME", help="Layer name or regex to keep in FP32.")
@gathered(
    FileOptions,
    "files",
    [
        click.option("--save-calibration", type=FILE, default=None, metavar="FILE", help="Keep the ranges found (JSON)."),
        click.option("--calibration", type=FILE, default=None, metavar="FILE",
                     help="Use kept ranges instead of clips; with --calib as well, they must be of those clips."),
        click.option("--save-recipe", type=FILE, default=None, metavar="FILE", help="Keep the recipe used (TOML)."),
    ],
)  # fmt: skip
@output_options(str(INT8_MODEL))
@click.pass_context
@user_errors
def quantize(
    context: click.Context, model: Path, calibrating: CalibrationOptions, target: str, keep_fp16: tuple[str, ...],
    keep_fp32: tuple[str, ...], files: FileOptions, out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Quantize MODEL to INT8 (QDQ ONNX), its activations' thresholds from calibration clips.

    `edgeemo tune` finds a recipe that is good enough, `edgeemo analyze` says which layers suffer.
    """
    files.check(force)
    chosen = calibrating.chosen_recipe(target).keep(keep_fp16, "fp16", "--keep-fp16").keep(keep_fp32, "fp32", "--keep-fp32")
    written = check_output(out or INT8_MODEL, force)
    from edgeemo.onnxlib.load import load_onnx
    from edgeemo.quantize.findings import warnings_of
    from edgeemo.quantize.plan import plan, quantize_plan

    planned = plan(load_onnx(model), str(model), chosen)
    named = context.get_parameter_source("calib") is not ParameterSource.DEFAULT
    calibration, source, said = _calibrate(planned, calibrating, files.calibration, named)
    quantized, report = quantize_plan(planned, calibration)
    said += warnings_of(planned, calibration, quantized, report, source)
    warn(said)
    _keep(files, planned, calibration, calibrating.jobs, force)
    content = quantized.SerializeToString(deterministic=True)
    write_file(written, content, force)
    if as_json:
        print_json({"out": str(written), "bytes": len(content), "warnings": said, **json.loads(report.to_json())})
        return
    _print(report)
    click.echo(f"{written}: {len(content) / 1e6:.2f} MB (float {model.stat().st_size / 1e6:.2f} MB)")


def _calibrate(
    planned: Plan, calibrating: CalibrationOptions, stored: Path | None, named: bool
) -> tuple[Calibration, Source | None, list[str]]:
    """Ranges from clips, or from a file; the source they are of, None where a file is taken and no clips are ``named`` next to
    it; warnings about clips that were calibrated on."""
    from edgeemo.quantize.calibration.cache import read_calibration
    from edgeemo.quantize.calibration.sources import files_of
    from edgeemo.quantize.plan import unheard, with_moments

    if stored is None:
        source, _, said = calibrating.source(planned)
        return calibrating.observe(planned, source), source, said
    named_source = calibrating.source(planned)[0] if named or calibrating.feeds is not None else None
    kept = read_calibration(stored, planned, named_source)
    if named_source is not None:
        with progress_bar("hearing what weights are rounded by", len(files_of(named_source))) as advance:
            return with_moments(planned, kept, named_source, advance), named_source, []
    return kept, None, unheard(planned, kept)


def _keep(files: FileOptions, planned: Plan, calibration: Calibration, jobs: int, force: bool) -> None:
    from edgeemo.quantize.calibration.cache import calibration_document

    if files.save_calibration is not None:
        document = calibration_document(planned, calibration, jobs)
        write_file(files.save_calibration, json.dumps(document, indent=1).encode(), force)
    if files.save_recipe is not None:
        write_file(files.save_recipe, planned.recipe.to_toml().encode(), force)


def _print(report: QuantizationReport) -> None:
    rows = [
        [r.name, r.op, _precision(r), _number(r.scale, ".5f"), _number(r.clip_ratio, ".2f"), _number(r.sqnr_db, ".1f"),
         f"{r.bytes:,}"] for r in report.layers
    ]  # fmt: skip
    columns = ["layer", "op", "precision", "input scale", "clip ratio", "SQNR dB", "bytes"]
    show_table(f"{report.recipe}: {report.clips} files, {report.steps} steps", columns, rows)


def _precision(row: LayerReport) -> str:
    return row.precision if row.precision == row.asked else f"{row.precision} (no {row.asked} kernel)"


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
