"""`edgeemo bench`: cost of a step against the number of calls in its batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeemo.cli.options import FILE, a72cost_option, artifact_options, report_options
from edgeemo.console import check_report, print_json, progress_bar, show_table, user_errors, write_report
from edgeemo.files import write_file


def _sizes(context: click.Context, option: click.Parameter, given: str) -> list[int]:
    """1,4,16 as a sorted list of different sizes."""
    from edgeemo_runtime.model import MAX_BATCH

    try:
        sizes = sorted({int(n) for n in given.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes[-1] > MAX_BATCH:
        raise click.BadParameter(f"{given}: give batch sizes from 1 to {MAX_BATCH}, the engine's largest, by commas")
    return sizes


@click.command()
@artifact_options(None, None)
@a72cost_option
@click.option("--batches", "sizes", callback=_sizes, default="1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16",
              help="Batch sizes, by commas.")  # fmt: skip
@click.option("--plot", type=FILE, default=None, help="PNG of cost per stream against batch size.")
@report_options
@user_errors
def bench(
    int8: Path, floating: Path | None, board: Path, board_float: Path | None, a72cost: Path | None, sizes: list[int],
    plot: Path | None, out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Cost per stream against batch size: ratios on this machine, and modelled cycles of the board's core where a72cost is."""
    from edgeemo.bench.report import bench_host, bench_modelled

    check_report(out, force)
    check_report(plot, force)
    with progress_bar("this machine", 1 if floating is None else 2) as advance:
        document: dict[str, Any] = {"host": bench_host(int8, floating, sizes, advance)}
    if a72cost is not None:
        with progress_bar("the board, modelled", len(sizes) + (3 if board_float else 0)) as advance:
            document["modelled"] = bench_modelled(a72cost, board, board_float, sizes, advance)
    if plot is not None:
        write_file(plot, _plot(document), force)
    write_report(document, out, force)
    if as_json:
        print_json(document)
        return
    by_name = document["host"]["cost_per_stream"]
    rows = [[n, *(f"{by[n]:.2f}" for by in by_name.values())] for n in sizes]
    show_table(f"this machine, 1 = {document['host']['unit']}", ["streams", *by_name], rows)
    if "modelled" in document:
        _print_modelled(document["modelled"])


def _plot(document: dict[str, Any]) -> bytes:
    """PNG, modelled where that was done."""
    from edgeemo.bench.plot import plot_cost

    curves, unit, limit = document["host"]["cost_per_stream"], document["host"]["unit"], None
    if "modelled" in document:
        found = document["modelled"]
        curves = {"INT8, the board modelled": {r["streams"]: r["real_per_stream"] / 1e6 for r in found["int8"]}}
        unit, limit = "M cycles per stream and step (modelled)", found["limit_per_stream"] / 1e6
    return plot_cost(curves, unit, limit, "Cost per stream against batch size")


def _print_modelled(found: dict[str, Any]) -> None:
    heads = ["streams", "core M", "real M", "real M/stream", "over limit", "streams/core"]
    lines = [[r["streams"], f"{r['core'] / 1e6:.2f}", f"{r['real'] / 1e6:.2f}", f"{r['real_per_stream'] / 1e6:.3f}",
              r["over_limit"] and f"{r['over_limit']:.2f}", r["streams_per_core"]] for r in found["int8"]]  # fmt: skip
    show_table("the board, modelled cycles", heads, lines)
    show_table("share per kernel", ["kernel", "%"], [[k, f"{100 * v:.1f}"] for k, v in found["share_per_kernel"].items()])
    for key, value in found.get("at_8_streams", {}).items():
        click.echo(f"{key.replace('_', ' ')} at 8 streams: {value}")
