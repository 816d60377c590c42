"""`edgeemo compile`: an ONNX file as one artifact for a board."""

from __future__ import annotations

from pathlib import Path

import click

from edgeemo.cli.options import FILE, FOLDER, output_options, target_option
from edgeemo.console import BUILD, INT8_MODEL, print_json, show_table, user_errors
from edgeemo.files import check_output, write_file


@click.command(name="compile")
@click.argument("model", type=FILE, default=INT8_MODEL)
@target_option("Board to compile for")
@click.option("--debug-dump", type=FOLDER, default=None, metavar="DIR", help="Write Relax, TIR and assembly.")
@click.option("--check/--no-check", default=True, help="Compare with ONNX Runtime; the artifact's manifest says whether.")
@click.option("--feeds", type=FOLDER, default=None, metavar="DIR",
              help="Compare on .npz files of inputs instead of made-up ones.")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["artifact", "shared", "static", "exe"]), default="artifact",
              help="One file for the runtimes; a folder with a C library that has the model in it; or a program.")  # fmt: skip
@click.option(
    "--libc", type=click.Choice(["gnu", "musl"]), default="gnu", help="Of shared and static: glibc from 2.17 on, or musl."
)
@click.option("--name", default="emotion", help="Of the model in C: the library's, and part of its symbols.")
@output_options("build/emotion-<target>.edgeemo, or build/<name>-<target>-<format>")
@user_errors
def compile_(
    model: Path,
    target: str,
    debug_dump: Path | None,
    check: bool,
    feeds: Path | None,
    kind: str,
    libc: str,
    name: str,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compile MODEL (INT8 or float ONNX) to one artifact for a board, or to a C library or program (docs/c-api.md).

    It is compiled for this machine, too, and run here next to ONNX Runtime: an artifact that gives other numbers is not written.
    """
    default = f"emotion-{target}.edgeemo" if kind == "artifact" else f"{name}-{target}-{kind}"
    from edgeemo.compile.codegen.c_library import check_library, write_library

    written = out or BUILD / default
    written = check_output(written, force) if kind == "artifact" else check_library(kind, name, written, force)
    from edgeemo.compile.check import compile_checked
    from edgeemo.compile.compiler import compile_onnx
    from edgeemo.targets.board import load_target

    board = load_target(target)
    compiled = compile_checked(model, board, debug_dump, feeds) if check else compile_onnx(model, board, debug_dump)
    if kind == "artifact":
        write_file(written, compiled.archive, force)
    else:
        write_library(kind, name, board.machine, libc, compiled, written, force)
    ours = {k: compiled.kernels[k] for k in compiled.ours}
    facts = {
        "out": str(written),
        "bytes": len(compiled.archive),
        "target": board.name,
        "cpu": board.cpu,
        "macs_per_step": compiled.manifest["macs_per_step"],
        "kernel_calls": sum(ours.values()),
        "stock_calls": sum(compiled.kernels.values()) - sum(ours.values()),
        "arena_bytes_per_stream": compiled.manifest["step"]["arena_bytes_per_stream"],
        "state_bytes_per_stream": compiled.manifest["step"]["state_words"] * 4,
    }
    if as_json:
        print_json({**facts, "kernels": compiled.kernels, "products_left_to_stock": compiled.stock_products})
        return
    show_table(f"{model} for {board.description}", ["kernel", "calls per step"], [[k, v] for k, v in ours.items()])
    show_table("artifact", ["", ""], [[k, v] for k, v in facts.items()])
