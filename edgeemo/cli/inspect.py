"""`edgeemo inspect`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgeemo.console import INT8_MODEL, print_json, show_table, user_errors


@click.command()
@click.argument("model", type=click.Path(path_type=Path), default=INT8_MODEL)
@click.option("--target", "target_name", default="aarch64-neon", help="Board: a file in targets/ (`edgeemo targets`).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@user_errors
def inspect(model: Path, target_name: str, as_json: bool) -> None:
    """Say which way every operator of MODEL would go: a kernel of ours in INT8 or float, TVM's stock code, or nowhere."""
    from edgeemo.compile import inspect as work
    from edgeemo.targets.board import load_target

    found = work.inspect(model, load_target(target_name))
    if as_json:
        print_json({"model": str(model), "target": target_name, **asdict(found)})
        return
    rows = [[p.name, p.op, p.path or "?", f"{p.macs:,}", f"{p.weight_bytes:,}", p.note] for p in found.products]
    show_table(f"{model} on {target_name}: products with weights", ["node", "op", "path", "MAC / item", "bytes", ""], rows)
    show_table("other operators", ["op", "nodes"], [[op, n] for op, n in found.others.items()])
    by_path: dict[str, int] = {}
    for p in found.products:
        by_path[p.path or "?"] = by_path.get(p.path or "?", 0) + p.macs
    total = max(sum(by_path.values()), 1)
    click.echo("MACs by path: " + ", ".join(f"{path} {macs / total:.1%}" for path, macs in by_path.items()))
    if found.problem is not None:
        click.echo(f"does not compile: {found.problem}")
