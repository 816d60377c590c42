"""`edgeemo capacity`: how many calls one core of a board holds."""

from __future__ import annotations

from pathlib import Path

import click

from edgeemo.cli.options import FILE, report_options, target_option
from edgeemo.console import check_report, print_json, progress_bar, show_table, user_errors, write_report


@click.command()
@target_option("Board whose costs count")
@click.option("--streams", type=click.IntRange(1), default=80, help="Calls on the core.")
@click.option("--costs", type=FILE, default=None, help="Costs that `edgeemo bench --a72cost --out` wrote [default: ours].")
@report_options
@user_errors
def capacity(target: str, streams: int, costs: Path | None, out: Path | None, force: bool, as_json: bool) -> None:
    """Plan a board: whether so many calls fit on one core, and how many would, in simulated time over modelled costs."""
    from edgeemo.bench import capacity as work

    check_report(out, force)
    with progress_bar("simulated calls", 1):
        document = work.capacity(target, streams, costs)
    write_report(document, out, force)
    if as_json:
        print_json(document)
        return
    keys = ["utilisation", "mean_batch", "p50_ms", "p95_ms", "p99_ms", "max_ms", "fits", "most_streams"]
    rows = [[key.replace("_", " "), document["phases_at_random"][key], document["phases_spread"][key]] for key in keys]
    show_table(
        f"{streams} calls on one core, {target}, modelled", ["hop's first sample to answer", "random phases", "spread"], rows
    )
    click.echo(
        f"fits: 99 % of the answers within 180 ms, hop included, for each of five sets of phases. Costs: {document['costs']}"
    )
