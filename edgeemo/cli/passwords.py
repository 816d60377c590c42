"""The password of a secret key, from a file or a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.cli.options import FILE


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeEmoError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from error


def password_of(file: Path | None, confirm: bool) -> str:
    """The key's password, of ``file`` or asked for on the terminal, twice to ``confirm``."""
    if file is not None:
        return read_text(file).rstrip("\n")
    if not sys.stdin.isatty():
        raise click.UsageError("a password is needed and nobody can be asked: --password-file FILE, or for keygen --no-password")
    return str(click.prompt("password", hide_input=True, confirmation_prompt=confirm, err=True))


password_file_option = click.option(
    "--password-file", type=FILE, default=None, help="File with the key's password [default: ask]."
)
