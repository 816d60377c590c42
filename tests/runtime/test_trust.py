"""Whose models a folder takes: signed ones in order, and none that others may write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from edgeemo_runtime import EdgeEmoError
from edgeemo_runtime.artifact import load_artifact
from edgeemo_runtime.ops import store
from edgeemo_runtime.ops.config import load_config
from edgeemo_runtime.trust import Trust, load_trust

from edgeemo.signing import SecretKey, new_key, public_text, signature_text

pytestmark = pytest.mark.slow


def signed(source: Path, to: Path, key: SecretKey, sequence: int) -> Path:
    shutil.copy(source, to)
    Path(f"{to}.minisig").write_text(signature_text(key, to.read_bytes(), f"timestamp:5\tsequence:{sequence}"))
    return to


@pytest.fixture
def key() -> SecretKey:
    return new_key()


@pytest.fixture
def trust(key: SecretKey, tmp_path: Path) -> Trust:
    (tmp_path / "us.pub").write_text(public_text(key))
    return load_trust([str(tmp_path / "us.pub")])


def test_an_older_one_takes_no_newer_one_s_place_but_by_rollback(
    host_artifacts: dict[str, Path], key: SecretKey, trust: Trust, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    first = store.install(signed(host_artifacts["int8"], tmp_path / "a", key, 10), models, trust=trust)
    second = store.install(signed(host_artifacts["float"], tmp_path / "b", key, 11), models, trust=trust)
    older = signed(host_artifacts["fp16"], tmp_path / "c", key, 9)
    with pytest.raises(EdgeEmoError, match=f"was signed with sequence 9, before {second} \\(11\\); `edgeemo-run rollback`"):
        store.install(older, models, trust=trust)
    assert store.linked(models, store.CURRENT) == second
    assert store.rollback(models, trust) == first
    assert [r.problem for r in store.installed(models, trust)] == ["", ""]
    assert not list(models.glob(".incoming-*"))


def test_installed_models_keep_their_signature(
    host_artifacts: dict[str, Path], key: SecretKey, trust: Trust, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    name = store.install(signed(host_artifacts["int8"], tmp_path / "a", key, 1), models, trust=trust)
    assert load_artifact(models / name, trust).path == models / name
    library = models / name / "step.so"
    library.write_bytes(library.read_bytes() + b"\0")
    with pytest.raises(EdgeEmoError, match="its signature is not of these bytes"):
        load_artifact(models / name, trust)
    unsigned = store.install(host_artifacts["float"], models)
    with pytest.raises(EdgeEmoError, match="is not signed"):
        load_artifact(models / unsigned, trust)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may give files away")
def test_what_others_may_write_is_refused(host_artifacts: dict[str, Path], trust: Trust, key: SecretKey, tmp_path: Path) -> None:
    models = tmp_path / "models"
    name = store.install(host_artifacts["int8"], models)
    assert [p.stat().st_mode & 0o777 for p in sorted((models / name).iterdir())] == [0o644] * 3
    assert (models.stat().st_mode & 0o777, (models / name).stat().st_mode & 0o777) == (0o755, 0o755)
    models.chmod(0o777)
    for do in (lambda: store.current(models, Trust()), lambda: store.install(host_artifacts["float"], models)):
        with pytest.raises(EdgeEmoError, match="others may write this folder"):
            do()
    models.chmod(0o755)
    (models / name / "step.so").chmod(0o666)
    with pytest.raises(EdgeEmoError, match=r"step\.so: others may write it"):
        load_artifact(models / name)
    assert load_artifact(models / name, Trust(allow_writable=True)).version
    file = signed(host_artifacts["int8"], tmp_path / "a", key, 1)
    file.chmod(0o666)
    assert load_artifact(file, trust).version  # a signature makes up for it


@pytest.mark.parametrize("umask", [0, 0o077])
def test_modes_do_not_depend_on_the_umask(host_artifacts: dict[str, Path], tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        name = store.install(host_artifacts["int8"], tmp_path / "models")
    finally:
        os.umask(before)
    assert (tmp_path / "models").stat().st_mode & 0o777 == 0o755
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "models" / name).iterdir()} == {0o644}


def test_the_config_says_whose(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[models]\nrequire_signature = true\n")
    with pytest.raises(EdgeEmoError, match=r"run\.toml: \[models\] require_signature needs keys"):
        load_config(tmp_path / "run.toml")
    (tmp_path / "run.toml").write_text('[models]\nrequire_signature = true\ntrust = ["a.pub", "b.pub"]\n')
    assert load_config(tmp_path / "run.toml").models.trust == ("a.pub", "b.pub")
    with pytest.raises(EdgeEmoError, match="no key can be read there"):
        load_trust([str(tmp_path / "a.pub")])
