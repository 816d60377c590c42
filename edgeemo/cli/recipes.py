"""`edgeemo recipes`: the quantization recipes with a name."""

from __future__ import annotations

import click

from edgeemo.cli.options import json_option
from edgeemo.console import print_json, show_table, user_errors


@click.command()
@json_option
@user_errors
def recipes(as_json: bool) -> None:
    """List the recipes that quantize knows by name; --recipe takes a file of your own, too."""
    from edgeemo.quantize.recipe import load_recipe, recipe_names

    known = [load_recipe(n) for n in recipe_names()]
    if as_json:
        print_json({"recipes": [{"name": r.name, "threshold": r.threshold, "description": r.description} for r in known]})
    else:
        show_table("recipes", ["name", "threshold", "what it does"], [[r.name, r.threshold, r.description] for r in known])
