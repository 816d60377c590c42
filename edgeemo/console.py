"""Shared by all verbs: tables and JSON on stdout, progress and errors on stderr, progress only on a terminal."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from edgeemo_runtime.errors import EdgeEmoError, first_line, printable
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from edgeemo.files import check_output, write_file

BUILD = Path("build")  # where verbs write when not told
FLOAT_MODEL, INT8_MODEL = BUILD / "emotion.onnx", BUILD / "emotion-int8.onnx"


def show_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table, first column left, others right; not cut to a terminal's width when stdout is no terminal."""
    table = Table(title=Text(printable(title)), title_justify="left", header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(v))) for v in row))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields advance(n). Without a terminal it says once what is being done."""
    if not sys.stderr.isatty():
        print(what, file=sys.stderr, flush=True)
        yield lambda n: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n: progress.advance(task, n)


def user_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """A user's mistake is one line on stderr and exit code 1; so is what nobody foresaw, unless --debug asks for all of it."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except EdgeEmoError as error:
            click.echo(f"edgeemo: {printable(str(error))}", err=True)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            if DebuggableGroup.debug:
                raise
            of = next((str(v) for v in kwargs.values() if isinstance(v, Path)), command.__name__.strip("_"))
            what = f"{type(error).__name__}: {first_line(error)}"
            click.echo(f"edgeemo: {printable(of)}: {what}, internal error; --debug shows it", err=True)
        sys.exit(1)

    return run


class DebuggableGroup(click.Group):
    """Verbs that take --debug, wherever it stands."""

    debug = False

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        DebuggableGroup.debug = "--debug" in words
        return super().main([w for w in words if w != "--debug"], *rest, **options)


def print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, indent=1, allow_nan=False))


def warn(sentences: list[str]) -> None:
    for sentence in sentences:
        click.echo(f"edgeemo: warning: {printable(sentence)}", err=True)


def check_report(out: Path | None, force: bool) -> None:
    """Raises EdgeEmoError, before any work is done, where ``write_report`` could not write."""
    if out is not None:
        check_output(out, force)


def write_report(document: dict[str, Any], out: Path | None, force: bool) -> None:
    """The document as JSON in the file of --out, where that is given."""
    if out is not None:
        write_file(out, (json.dumps(document, indent=2) + "\n").encode(), force)
