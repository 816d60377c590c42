"""`edgeemo gate`: a release is stopped where INT8 costs too much."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgeemo.cli.options import FILE, data_options, report_options
from edgeemo.cli.scoring import answers_of, interval_text, labelled_clips
from edgeemo.console import FLOAT_MODEL, INT8_MODEL, check_report, print_json, user_errors, write_report

FAILED = 3  # exit code of a gate that does not hold


@click.command()
@click.argument("reference", type=FILE, default=FLOAT_MODEL)
@click.argument("model", type=FILE, default=INT8_MODEL)
@click.option("--max-f1-drop", type=click.FloatRange(0, 1), default=0.011, help="Largest loss of macro-F1, absolute.")
@data_options(split="Only this split of the manifest [default: test, where it has it].")
@report_options
@user_errors
def gate(
    reference: Path, model: Path, max_f1_drop: float, data: Path, split: str | None, limit: int | None,
    out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Stop a release when MODEL has lost too much macro-F1 against REFERENCE.

    Exit code 0: it has not; 3: it has; 1: the gate could not run.
    """
    from edgeemo.evaluate.compare import compare
    from edgeemo.evaluate.evaluate import clip_probabilities

    check_report(out, force)
    clips, split = labelled_clips(data, split, limit, preferred="test")
    opened, answers = answers_of((reference, model), clips)
    before, after = (clip_probabilities(m.hears, a) for m, a in zip(opened, answers, strict=True))
    found = compare(before, after, clips, opened[0].labels)
    # A drop that rounds to the limit is not beyond it: macro-F1 of a thousand clips has no more than four digits.
    passed = round(found.drop, 4) <= max_f1_drop
    on = f"{data}, split {split}" if split else str(data)
    about = {"passed": passed, "max_f1_drop": max_f1_drop, "on": on, "reference": str(reference), "model": str(model)}
    document = {**about, **found.document()}
    write_report(document, out, force)
    if as_json:
        print_json(document)
    else:
        click.echo(
            f"gate {'passed' if passed else 'FAILED'}: macro-F1 {found.reference_f1:.4f} -> {found.f1:.4f}, a drop of "
            f"{found.drop:+.4f} (95 % interval {interval_text(found.interval)}), {max_f1_drop} allowed; {found.clips} clips of "
            f"{found.speakers} speakers in {on}"
        )
    if not passed:
        sys.exit(FAILED)
