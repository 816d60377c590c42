"""`edgeemo keygen` and `edgeemo sign`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.console import output_options, print_json, user_errors
from edgeemo.files import check_output, write_file

PUBLIC_SUFFIX = ".pub"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeEmoError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from error


def _password(file: Path | None, confirm: bool) -> str:
    if file is not None:
        return _read(file).rstrip("\n")
    if not sys.stdin.isatty():
        raise click.UsageError("a password is needed and nobody can be asked: --password-file FILE, or for keygen --no-password")
    return str(click.prompt("password", hide_input=True, confirmation_prompt=confirm, err=True))


_password_file = click.option(
    "--password-file", type=click.Path(path_type=Path), default=None, help="File with the key's password [default: ask]."
)


@click.command()
@click.option("--no-password", is_flag=True, help="Leave the secret key unencrypted: for CI, where a file is the secret.")
@_password_file
@output_options("edgeemo.key")
@user_errors
def keygen(no_password: bool, password_file: Path | None, out: Path | None, force: bool, as_json: bool) -> None:
    """Make a key pair that artifacts are signed with: OUT, which stays with you, and OUT's name with .pub, for the boards."""
    from edgeemo.signing import new_key, public_text, secret_text

    secret = check_output(out or Path("edgeemo.key"), force)
    public = check_output(secret.with_suffix(PUBLIC_SUFFIX), force)
    if secret == public:
        raise click.UsageError(f"--out {secret}: names the secret key; {PUBLIC_SUFFIX} is the public one's")
    password = None if no_password else _password(password_file, confirm=True)
    key = new_key()
    write_file(secret, secret_text(key, password).encode(), force, mode=0o600)
    write_file(public, public_text(key).encode(), force)
    facts = {"secret": str(secret), "public": str(public), "key": key.id[::-1].hex().upper()}
    said = f"key {facts['key']}: {secret} signs (keep it), {public} goes to the boards (edgeemo-run --trust {public.name})"
    print_json(facts) if as_json else click.echo(said)


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Secret key: of `edgeemo keygen`, or of minisign.")
@_password_file
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
    """Sign ARTIFACT: writes ARTIFACT.minisig beside it, which `minisign -Vm ARTIFACT` verifies, too."""
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
    text = _read(key)
    password = _password(password_file, confirm=False) if is_encrypted(text, str(key)) else None
    secret = parse_secret_key(text, str(key), password)
    now = int(time.time())
    number = now if sequence is None else sequence
    target_name = loaded.manifest["target"]["name"]
    comment = f"timestamp:{now}\tfile:{artifact.name}\thashed\tsequence:{number}\tversion:{loaded.version}\ttarget:{target_name}"
    write_file(target, signature_text(secret, members.archive(), comment).encode(), force)
    facts = {"signature": str(target), "key": secret.id[::-1].hex().upper(), "sequence": number, "version": loaded.version}
    said = f"{target}: {artifact} signed with key {facts['key']}, sequence {number}"
    print_json(facts) if as_json else click.echo(said)
