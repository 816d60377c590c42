"""`edgeemo bench-peers`: what a step costs elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeemo.cli.options import FILE, FOLDER, a72cost_option, artifact_options, report_options
from edgeemo.console import (
    BUILD,
    FLOAT_MODEL,
    INT8_MODEL,
    check_report,
    print_json,
    progress_bar,
    show_table,
    user_errors,
    write_report,
)

HOST_FLOAT, BOARD_FLOAT = BUILD / "emotion-float-host.edgeemo", BUILD / "emotion-float-aarch64-neon.edgeemo"


@click.command("bench-peers")
@click.option("--batch", type=click.IntRange(1, 16), default=8, help="Batch size.")
@click.option("--float-onnx", type=FILE, default=FLOAT_MODEL, help="Float ONNX file.")
@click.option("--int8-onnx", type=FILE, default=INT8_MODEL, help="INT8 QDQ ONNX file.")
@artifact_options(HOST_FLOAT, BOARD_FLOAT)
@click.option("--litert", type=FOLDER, default=None, help="Folder of `python -m edgeemo.bench.litert`.")
@a72cost_option
@report_options
@user_errors
def bench_peers(
    batch: int, float_onnx: Path, int8_onnx: Path, int8: Path, floating: Path, board: Path, board_float: Path,
    litert: Path | None, a72cost: Path | None, out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compare with ONNX Runtime and LiteRT: our model, our QDQ file, one thread, the same batch.

    Artifacts are those that `make bench` builds in build/, or of a model of your own, given with its two ONNX files.
    """
    from edgeemo.bench.peers import Peer, compare, litert_peers
    from edgeemo.onnxlib.load import load_onnx

    check_report(out, force)
    for path in (float_onnx, int8_onnx):
        load_onnx(str(path))
    peers = [Peer("ONNX Runtime INT8 (s8s8)", "onnxruntime", int8_onnx), Peer("ONNX Runtime FP32", "onnxruntime", float_onnx)]
    peers += litert_peers(litert) if litert is not None else []
    ours = {"edgeemo INT8": (int8, board), "edgeemo FP32": (floating, board_float)}
    with progress_bar("one after another", (len(ours) + len(peers)) * (2 if a72cost else 1)) as advance:
        document = compare(ours, peers, batch, a72cost, advance)
    write_report(document, out, force)
    if as_json:
        print_json(document)
        return
    _print(document["rows"], f"{batch} streams in a batch", document.get("core"))


def _print(found: list[dict[str, Any]], title: str, core: str | None) -> None:
    heads, rows = ["", "this machine, ratio"], [[r["name"], r["host_ratio"]] for r in found]
    if core:
        heads += ["core M", "real M", "real/MAC", "streams/core"]
        for row, r in zip(rows, found, strict=True):
            row += [f"{r['core'] / 1e6:.1f}", f"{r['real'] / 1e6:.1f}", r["real_per_mac"], r["streams_per_core"]]
    show_table(title + (f", {core} modelled" if core else ""), heads, rows)
