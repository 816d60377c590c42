"""`edgeemo keygen`: a key pair to sign artifacts with."""

from __future__ import annotations

from pathlib import Path

import click

from edgeemo.cli.options import output_options
from edgeemo.cli.passwords import password_file_option, password_of
from edgeemo.console import print_json, user_errors
from edgeemo.files import check_output, write_file

PUBLIC_SUFFIX = ".pub"


@click.command()
@click.option("--no-password", is_flag=True, help="Leave the secret key unencrypted: for CI, where a file is the secret.")
@password_file_option
@output_options("edgeemo.key")
@user_errors
def keygen(no_password: bool, password_file: Path | None, out: Path | None, force: bool, as_json: bool) -> None:
    """Make a key pair that artifacts are signed with: OUT, which stays with you, and OUT's name with .pub, for the boards."""
    from edgeemo.signing import new_key, public_text, secret_text

    secret = check_output(out or Path("edgeemo.key"), force)
    public = check_output(secret.with_suffix(PUBLIC_SUFFIX), force)
    if secret == public:
        raise click.UsageError(f"--out {secret}: names the secret key; {PUBLIC_SUFFIX} is the public one's")
    password = None if no_password else password_of(password_file, confirm=True)
    key = new_key()
    write_file(secret, secret_text(key, password).encode(), force, mode=0o600)
    write_file(public, public_text(key).encode(), force)
    facts = {"secret": str(secret), "public": str(public), "key": key.id[::-1].hex().upper()}
    said = f"key {facts['key']}: {secret} signs (keep it), {public} goes to the boards (edgeemo-run --trust {public.name})"
    print_json(facts) if as_json else click.echo(said)
