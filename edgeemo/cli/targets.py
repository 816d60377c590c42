"""`edgeemo targets`: the boards."""

from __future__ import annotations

import click

from edgeemo.cli.options import json_option
from edgeemo.console import print_json, show_table, user_errors


@click.command()
@json_option
@user_errors
def targets(as_json: bool) -> None:
    """List the boards that compile knows, and how many calls a core of theirs holds where that was modelled."""
    from edgeemo.bench.capacity import calls_per_core
    from edgeemo.targets.board import load_target, target_names

    boards = [load_target(n) for n in target_names()]
    if as_json:
        keys = ("name", "names", "cpu", "cores", "mhz", "triple", "features", "needs", "description")
        said = [{key: getattr(b, key) for key in keys} | {"calls_per_core_modelled": calls_per_core(b.name)} for b in boards]
        print_json({"targets": said})
        return
    columns = ["name", "or", "cpu", "cores x MHz", "calls per core (modelled)", "what it is"]
    rows = [
        [
            b.name,
            ", ".join(b.names),
            b.cpu,
            f"{b.cores} x {b.mhz}" if b.mhz else "",
            calls_per_core(b.name) or "",
            b.description,
        ]
        for b in boards
    ]
    show_table("targets", columns, rows)
