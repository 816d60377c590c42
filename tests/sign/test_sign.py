"""Keys and signatures, with Debian's minisign as the counterpart where it is installed (`make counterparts`)."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from edgeemo_runtime.artifact import load_artifact
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.trust import load_public_key, load_trust, parse_signature
from hypothesis import given
from hypothesis import strategies as st

from edgeemo.cli.main import main
from edgeemo.signing import new_key, parse_secret_key, public_text, secret_text

minisign = pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not installed; `make counterparts`")


def run(*words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(w) for w in words])
    assert done.exit_code == code, done.output
    return done.output


def debian(*words: str | Path, said: bytes = b"") -> None:
    subprocess.run(["minisign", *map(str, words)], check=True, capture_output=True, input=said)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    run("keygen", "--no-password", "--out", tmp_path / "us.key")
    return tmp_path / "us.key", tmp_path / "us.pub"


@pytest.fixture
def artifact(host_artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(host_artifacts["int8"], tmp_path / "a.edgeemo"))


@pytest.mark.slow
def test_what_is_signed_loads_and_nothing_else(artifact: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    secret, public = keys
    trust = load_trust([str(public)])
    with pytest.raises(EdgeEmoError, match="is not signed"):
        load_artifact(artifact, trust)
    run("sign", artifact, "--key", secret)
    assert load_artifact(artifact, trust).version == load_artifact(artifact).version
    assert load_artifact(artifact, load_trust([public.read_text().splitlines()[1]])).path == artifact
    other = new_key()
    (tmp_path / "other.pub").write_text(public_text(other))
    with pytest.raises(EdgeEmoError, match=r"which is not trusted here; trusted: [0-9A-F]{16}"):
        load_artifact(artifact, load_trust([str(tmp_path / "other.pub")]))
    both = load_trust([str(tmp_path / "other.pub"), str(public)])  # rotation
    assert load_artifact(artifact, both).path == artifact


@pytest.mark.slow
@pytest.mark.parametrize("line", [1, 2, 3])
def test_no_part_of_a_signature_may_change(artifact: Path, keys: tuple[Path, Path], line: int) -> None:
    run("sign", artifact, "--key", keys[0], "--sequence", "7")
    signature = artifact.with_name("a.edgeemo.minisig")
    lines = signature.read_text().splitlines()
    lines[line] = lines[line].replace("sequence:7", "sequence:8") if line == 2 else lines[line][:20] + "AAAA" + lines[line][24:]
    signature.write_text("\n".join(lines))
    with pytest.raises(EdgeEmoError, match=r"a\.edgeemo"):
        load_artifact(artifact, load_trust([str(keys[1])]))


@pytest.mark.slow
@minisign
def test_debian_s_minisign_verifies_ours_and_signs_for_us(artifact: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    run("sign", artifact, "--key", keys[0])
    subprocess.run(["minisign", "-Vm", artifact, "-p", keys[1]], check=True, capture_output=True)
    subprocess.run(
        ["minisign", "-G", "-W", "-f", "-p", tmp_path / "deb.pub", "-s", tmp_path / "deb.key"], check=True, capture_output=True
    )
    subprocess.run(
        ["minisign", "-Sm", artifact, "-s", tmp_path / "deb.key"], check=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    assert load_artifact(artifact, load_trust([str(tmp_path / "deb.pub")])).path == artifact
    run("sign", artifact, "--key", tmp_path / "deb.key", "--force")
    debian("-Vm", artifact, "-p", tmp_path / "deb.pub")
    debian("-Sm", artifact, "-s", keys[0])
    assert load_artifact(artifact, load_trust([str(keys[1])])).path == artifact


@pytest.mark.slow
@minisign
def test_passwords_are_minisign_s(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("correct horse\n")
    run("keygen", "--password-file", tmp_path / "word", "--out", tmp_path / "k.key")
    (tmp_path / "m").write_text("a message")
    debian("-Sm", tmp_path / "m", "-s", tmp_path / "k.key", said=b"correct horse\n")
    debian("-Vm", tmp_path / "m", "-p", tmp_path / "k.pub")
    text = (tmp_path / "k.key").read_text()
    assert parse_secret_key(text, "k", "correct horse").id == load_public_key(str(tmp_path / "k.pub")).id
    with pytest.raises(EdgeEmoError, match="wrong password"):
        parse_secret_key(text, "k", "correct hors")
    with pytest.raises(EdgeEmoError, match="has a password"):
        parse_secret_key(text, "k", None)


def test_the_secret_key_is_nobody_else_s_and_stays(keys: tuple[Path, Path], tmp_path: Path) -> None:
    assert keys[0].stat().st_mode & 0o777 == 0o600
    before = keys[0].read_text()
    assert "--force writes over it" in run("keygen", "--no-password", "--out", keys[0], code=1)
    assert keys[0].read_text() == before
    assert "a password is needed" in run("keygen", "--out", tmp_path / "b.key", code=2)


def test_keys_without_a_password_come_back() -> None:
    key = new_key()
    assert parse_secret_key(secret_text(key, None), "k", None) == key
    damaged = base64.b64decode(secret_text(key, None).splitlines()[1])
    text = base64.b64encode(damaged[:70] + b"?" + damaged[71:]).decode()
    with pytest.raises(EdgeEmoError, match="is damaged"):
        parse_secret_key(text, "k", None)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_signature_or_a_line(data: bytes) -> None:
    try:
        parse_signature(data, "x")
    except EdgeEmoError as error:
        assert str(error).isprintable()


@given(st.text(max_size=200))
def test_any_text_is_a_key_or_a_line(text: str) -> None:
    for parse in (lambda: load_public_key(text), lambda: parse_secret_key(text, "x", None)):
        with pytest.raises(EdgeEmoError):
            parse()


@pytest.mark.slow
def test_what_cannot_be_signed(artifact: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    assert "no minisign secret key" in run("sign", artifact, "--key", keys[1], code=1)
    assert "cannot be read" in run("sign", artifact, "--key", tmp_path / "no.key", code=1)
    (tmp_path / "text").write_text("hello")
    assert "not an edgeemo artifact" in run("sign", tmp_path / "text", "--key", keys[0], code=1)
    assert not (tmp_path / "text.minisig").exists()
