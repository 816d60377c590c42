"""The `edgeemo` command. Verbs parse, check where output goes, call the work, and print a table or one JSON document."""

from __future__ import annotations

import importlib

import click

from edgeemo import __version__
from edgeemo.console import DebuggableGroup

# In the order of use, which is the order of the help; each is in the file of its name.
VERBS = (
    "train", "export", "adapt", "recipes", "quantize", "analyze", "tune", "targets", "inspect", "compile", "keygen", "sign",
    "eval", "eval-calls", "gate", "bench", "bench-peers", "capacity",
)  # fmt: skip


class Verbs(DebuggableGroup):
    """Loads a verb's file when the verb is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"edgeemo.cli.{name.replace('-', '_')}")
        return next(v for v in vars(module).values() if isinstance(v, click.Command) and v.name == name)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120})
@click.version_option(__version__)
def main() -> None:
    """From a torch speech-emotion model to an INT8 artifact for an ARM board: export, quantize, compile, eval.

    Every verb takes --help, and --debug, which shows where an internal error comes from.
    """
