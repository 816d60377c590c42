"""`edgeemo targets`: the boards."""

from __future__ import annotations

import click

from edgeemo.cli.options import json_option
from edgeemo.console import print_json, show_table, user_errors


@click.command()
@json_option
@user_errors
def targets(as_json: bool) -> None:
    """List the boards that compile knows."""
    from edgeemo.targets.board import load_target, target_names

    boards = [load_target(n) for n in target_names()]
    if as_json:
        print_json({"targets": [{"name": b.name, "cpu": b.cpu, "triple": b.triple, "features": b.features} for b in boards]})
    else:
        show_table("targets", ["name", "cpu", "triple", "what it is"], [[b.name, b.cpu, b.triple, b.description] for b in boards])
