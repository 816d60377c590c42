"""`edgeemo inspect`: which code every operator of a model would get."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgeemo.cli.options import FILE, report_options, target_option
from edgeemo.console import INT8_MODEL, check_report, print_json, show_table, user_errors, write_report


@click.command()
@click.argument("model", type=FILE, default=INT8_MODEL)
@target_option("Board to compile for")
@report_options
@user_errors
def inspect(model: Path, target: str, out: Path | None, force: bool, as_json: bool) -> None:
    """Say which way every operator of MODEL would go: a kernel of ours in INT8 or float, TVM's stock code, or nowhere."""
    from edgeemo.compile import inspect as work
    from edgeemo.targets.board import load_target

    check_report(out, force)
    found = work.inspect(model, load_target(target))
    document = {"model": str(model), "target": target, **asdict(found)}
    write_report(document, out, force)
    if as_json:
        print_json(document)
        return
    rows = [[p.name, p.op, p.path or "?", f"{p.macs:,}", f"{p.weight_bytes:,}", p.note] for p in found.products]
    show_table(f"{model} on {target}: products with weights", ["node", "op", "path", "MAC / item", "bytes", ""], rows)
    show_table("other operators", ["op", "nodes"], [[op, n] for op, n in found.others.items()])
    by_path: dict[str, int] = {}
    for p in found.products:
        by_path[p.path or "?"] = by_path.get(p.path or "?", 0) + p.macs
    total = max(sum(by_path.values()), 1)
    click.echo("MACs by path: " + ", ".join(f"{path} {macs / total:.1%}" for path, macs in by_path.items()))
    if found.problem is not None:
        click.echo(f"does not compile: {found.problem}")
