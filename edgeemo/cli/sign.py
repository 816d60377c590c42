"""`edgeemo sign`: an artifact's signature in minisign's format."""

from __future__ import annotations

import time
from pathlib import Path

import click
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.cli.options import FILE, output_options
from edgeemo.cli.passwords import password_file_option, password_of, read_text
from edgeemo.console import print_json, user_errors
from edgeemo.files import check_output, write_file


@click.command()
@click.argument("artifact", type=FILE)
@click.option("--key", type=FILE, required=True, help="Secret key: of `edgeemo keygen`, or of minisign.")
@password_file_option
@click.option(
    "--sequence",
    type=click.IntRange(0, 10**18 - 1),
    default=None,
    help="A board takes no artifact of a lower one than it has [default: the time, in seconds since 1970].",
)
@output_options("ARTIFACT.minisig")
@user_errors
def sign(
    artifact: Path, key: Path, password_file: Path | None, sequence: int | None, out: Path | None, force: bool, as_json: bool
) -> None:
    """Sign ARTIFACT: writes ARTIFACT.minisig next to it, which `minisign -Vm ARTIFACT` verifies, too."""
    from edgeemo_runtime.artifact import unchecked
    from edgeemo_runtime.members import SIGNATURE, read_members

    from edgeemo.signing import is_encrypted, parse_secret_key, signature_text

    target = check_output(out or Path(f"{artifact}{SIGNATURE}"), force)
    if artifact.is_dir():
        raise EdgeEmoError(f"{artifact}: is a folder; sign the file that `edgeemo compile` wrote, before it is installed")
    members = read_members(artifact)
    loaded = unchecked(members)
    if members.archive() != artifact.read_bytes():
        raise EdgeEmoError(f"{artifact}: was not packed by `edgeemo compile`, so a board could not verify it once installed")
    text = read_text(key)
    password = password_of(password_file, confirm=False) if is_encrypted(text, str(key)) else None
    secret = parse_secret_key(text, str(key), password)
    now = int(time.time())
    number = now if sequence is None else sequence
    target_name = loaded.manifest["target"]["name"]
    comment = f"timestamp:{now}\tfile:{artifact.name}\thashed\tsequence:{number}\tversion:{loaded.version}\ttarget:{target_name}"
    write_file(target, signature_text(secret, members.archive(), comment).encode(), force)
    facts = {"signature": str(target), "key": secret.id[::-1].hex().upper(), "sequence": number, "version": loaded.version}
    said = f"{target}: {artifact} signed with key {facts['key']}, sequence {number}"
    print_json(facts) if as_json else click.echo(said)
