"""`edgeemo bench` and `edgeemo bench-peers`: what a step costs, and what it costs elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeemo.console import BUILD, print_json, progress_bar, show_table, user_errors
from edgeemo.files import check_output, write_file

HOST, BOARD = BUILD / "emotion-host.edgeemo", BUILD / "emotion-aarch64-neon.edgeemo"
HOST_FLOAT, BOARD_FLOAT = BUILD / "emotion-float-host.edgeemo", BUILD / "emotion-float-aarch64-neon.edgeemo"

a72cost_option = click.option(
    "--a72cost", type=click.Path(path_type=Path), default=None, help="Folder of the a72cost tool: models a Cortex-A72."
)


def out_option(command: Any) -> Any:
    command = click.option("--force", is_flag=True, help="Write over existing files.")(command)
    path = click.Path(path_type=Path)
    return click.option("--out", type=path, default=None, help="Write the figures as JSON to this file as well.")(command)


def artifact_options(floating: Path | None, board_float: Path | None) -> Callable[[Any], Any]:
    """Which artifacts to measure: streaming ones or others; of the float ones, what is taken where nothing is given."""
    path = click.Path(path_type=Path)
    options = [
        click.option("--int8", type=path, default=HOST, show_default=True, help="INT8 artifact for this machine."),
        click.option("--float", "floating", type=path, default=floating, help="Float artifact to compare with."),
        click.option("--board", type=path, default=BOARD, show_default=True, help="INT8 artifact to model."),
        click.option("--board-float", type=path, default=board_float, help="Float artifact to model."),
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@artifact_options(None, None)
@a72cost_option
@click.option("--streams", default="1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", help="Batch sizes, by commas; with --plan, calls.")
@click.option("--plan", "planned", is_flag=True, help="Instead: would so many calls fit on one core? In simulated time.")
@click.option("--target", default="aarch64-neon", help="With --plan: whose costs.")
@click.option(
    "--costs", type=click.Path(path_type=Path), default=None, help="With --plan: costs that --out wrote [default: ours]."
)
@click.option("--plot", type=click.Path(path_type=Path), default=None, help="PNG of cost per stream against batch size.")
@out_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@user_errors
def bench(
    int8: Path,
    floating: Path | None,
    a72cost: Path | None,
    board: Path,
    board_float: Path | None,
    streams: str,
    planned: bool,
    target: str,
    costs: Path | None,
    plot: Path | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Cost per stream against batch size: ratios on this machine, and modelled cycles of a Cortex-A72 where a72cost is."""
    from edgeemo_runtime.model import LARGEST_BATCH

    from edgeemo.bench.plot import plot_cost
    from edgeemo.bench.report import bench_host, bench_modelled

    for written in (out, plot):
        if written is not None:
            check_output(written, force)
    if planned:
        _plan(streams, target, costs, out, force, as_json)
        return
    try:
        sizes = sorted({int(n) for n in streams.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes[-1] > LARGEST_BATCH:
        raise click.UsageError(
            f"--streams {streams}: give batch sizes from 1 to {LARGEST_BATCH}, the engine's largest, by commas"
        )
    with progress_bar("this machine", 1 if floating is None else 2) as advance:
        document: dict[str, Any] = {"host": bench_host(int8, floating, sizes, advance)}
    curves, unit, limit = document["host"]["cost_per_stream"], document["host"]["unit"], None
    if a72cost is not None:
        with progress_bar("modelled Cortex-A72", len(sizes) + (3 if board_float else 0)) as advance:
            document["modelled"] = bench_modelled(a72cost, board, board_float, sizes, advance)
        curves = {"INT8, modelled Cortex-A72": {r["streams"]: r["real_per_stream"] / 1e6 for r in document["modelled"]["int8"]}}
        unit, limit = "M cycles per stream and step (modelled)", document["modelled"]["limit_per_stream"] / 1e6
    if plot is not None:
        write_file(plot, plot_cost(curves, unit, limit, "Cost per stream against batch size"), force)
    _write(document, out, force)
    if as_json:
        print_json(document)
        return
    by_name = document["host"]["cost_per_stream"]
    rows = [[n, *(f"{by[n]:.2f}" for by in by_name.values())] for n in sizes]
    show_table(f"this machine, 1 = {document['host']['unit']}", ["streams", *by_name], rows)
    if "modelled" in document:
        found = document["modelled"]
        heads = ["streams", "core M", "real M", "real M/stream", "over limit", "streams/core"]
        lines = [[r["streams"], f"{r['core'] / 1e6:.2f}", f"{r['real'] / 1e6:.2f}", f"{r['real_per_stream'] / 1e6:.3f}",
                  r["over_limit"] and f"{r['over_limit']:.2f}", r["streams_per_core"]] for r in found["int8"]]  # fmt: skip
        show_table("Cortex-A72, modelled cycles", heads, lines)
        show_table("share per kernel", ["kernel", "%"], [[k, f"{100 * v:.1f}"] for k, v in found["share_per_kernel"].items()])
        for key, value in found.get("at_8_streams", {}).items():
            click.echo(f"{key.replace('_', ' ')} at 8 streams: {value}")


def _write(document: dict[str, Any], out: Path | None, force: bool) -> None:
    if out is not None:
        write_file(out, (json.dumps(document, indent=2) + "\n").encode(), force)


def _plan(streams: str, target: str, costs: Path | None, out: Path | None, force: bool, as_json: bool) -> None:
    from edgeemo.bench.capacity import capacity

    if not streams.isdigit() or int(streams) < 1:
        raise click.UsageError("--plan takes one number of calls: --streams 120")
    with progress_bar("simulated calls", 1):
        document = capacity(target, int(streams), costs)
    _write(document, out, force)
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


@click.command("bench-peers")
@click.option("--streams", type=click.IntRange(1, 16), default=8, help="Streams in the batch.")
@click.option("--model", type=click.Path(path_type=Path), default=BUILD / "emotion.onnx", help="Float ONNX file.")
@click.option("--int8-model", type=click.Path(path_type=Path), default=BUILD / "emotion-int8.onnx", help="INT8 QDQ ONNX file.")
@artifact_options(HOST_FLOAT, BOARD_FLOAT)
@click.option("--litert", type=click.Path(path_type=Path), default=None, help="Folder of `python -m edgeemo.bench.litert`.")
@a72cost_option
@out_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@user_errors
def bench_peers(
    streams: int,
    model: Path,
    int8_model: Path,
    int8: Path,
    floating: Path,
    board: Path,
    board_float: Path,
    litert: Path | None,
    a72cost: Path | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """ONNX Runtime and LiteRT beside us: our model, our QDQ file, one thread, the same batch.

    Artifacts are those that `make bench` builds in build/, or of a model of your own, given with its two ONNX files.
    """
    from edgeemo.bench.peers import Peer, compare, litert_peers
    from edgeemo.onnxlib.load import load_onnx

    if out is not None:
        check_output(out, force)
    for path in (model, int8_model):
        load_onnx(str(path))
    peers = [Peer("ONNX Runtime INT8 (s8s8)", "onnxruntime", int8_model), Peer("ONNX Runtime FP32", "onnxruntime", model)]
    peers += litert_peers(litert) if litert is not None else []
    ours = {"edgeemo INT8": (int8, board), "edgeemo FP32": (floating, board_float)}
    with progress_bar("one after another", (len(ours) + len(peers)) * (2 if a72cost else 1)) as advance:
        document = compare(ours, peers, streams, a72cost, advance)
    _write(document, out, force)
    if as_json:
        print_json(document)
        return
    heads, rows = ["", "this machine, ratio"], [[r["name"], r["host_ratio"]] for r in document["rows"]]
    if a72cost:
        heads += ["core M", "real M", "real/MAC", "streams/core"]
        for row, r in zip(rows, document["rows"], strict=True):
            row += [f"{r['core'] / 1e6:.1f}", f"{r['real'] / 1e6:.1f}", r["real_per_mac"], r["streams_per_core"]]
    show_table(f"{streams} streams in a batch" + (", Cortex-A72 modelled" if a72cost else ""), heads, rows)
