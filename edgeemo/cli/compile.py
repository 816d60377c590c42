"""`edgeemo compile`: an ONNX file as one artifact for a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeemo.cli.options import FILE, FOLDER, TargetChoice, output_options
from edgeemo.console import BUILD, INT8_MODEL, print_json, show_table, user_errors
from edgeemo.files import check_output, write_file

if TYPE_CHECKING:
    from edgeemo.compile.compiler import Compiled
    from edgeemo.targets.board import BoardTarget


@click.command(name="compile")
@click.argument("model", type=FILE, default=INT8_MODEL)
@click.option("--target", "targets", type=TargetChoice(several=True), default="aarch64-neon",
              help="Board to compile for (`edgeemo targets`); several by commas, an artifact each.")  # fmt: skip
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
    targets: list[str],
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
    if len(targets) > 1 and (out is not None or debug_dump is not None or kind != "artifact"):
        raise click.UsageError("several targets are several artifacts in build/: --out, --debug-dump and --format take one")
    from edgeemo.compile.codegen.c_library import check_library, write_library

    written = {}
    for target in targets:
        default = f"emotion-{target}.edgeemo" if kind == "artifact" else f"{name}-{target}-{kind}"
        path = out or BUILD / default
        written[target] = check_output(path, force) if kind == "artifact" else check_library(kind, name, path, force)
    from edgeemo.compile.check import compile_checked
    from edgeemo.compile.compiler import compile_onnx
    from edgeemo.targets.board import load_target

    documents = []
    for target, path in written.items():
        board = load_target(target)
        compiled = compile_checked(model, board, debug_dump, feeds) if check else compile_onnx(model, board, debug_dump)
        if kind == "artifact":
            write_file(path, compiled.archive, force)
        else:
            write_library(kind, name, board.machine, libc, compiled, path, force)
        facts = _facts(path, board, compiled)
        documents.append({**facts, "kernels": compiled.kernels, "products_left_to_stock": compiled.stock_products})
        if not as_json:
            rows = [[k, compiled.kernels[k]] for k in compiled.ours]
            show_table(f"{model} for {board.description}", ["kernel", "calls per step"], rows)
            show_table("artifact", ["", ""], [[k, v] for k, v in facts.items()])
    if as_json:
        print_json(documents[0] if len(documents) == 1 else {"artifacts": documents})


def _facts(path: Path, board: BoardTarget, compiled: Compiled) -> dict[str, Any]:
    ours = sum(compiled.kernels[k] for k in compiled.ours)
    step = compiled.manifest["step"]
    return {
        "out": str(path),
        "bytes": len(compiled.archive),
        "target": board.name,
        "cpu": board.cpu,
        "macs_per_step": compiled.manifest["macs_per_step"],
        "kernel_calls": ours,
        "stock_calls": sum(compiled.kernels.values()) - ours,
        "arena_bytes_per_stream": step["arena_bytes_per_stream"],
        "state_bytes_per_stream": step["state_words"] * 4,
    }
