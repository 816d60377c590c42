"""The C library refuses what the Python runtime refuses: archives, manifests, signatures; and says so in a line."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from edgeemo_runtime.artifact import load_artifact
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.manifest import parse_manifest
from edgeemo_runtime.members import pack, read_members
from edgeemo_runtime.ops import store
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeemo.signing import new_key, public_text, signature_text
from tests.c.library import Library, LibraryError
from tests.fuzz.mutate import damaged, damaged_document
from tests.runtime.test_artifact import repacked
from tests.runtime.test_manifest import GOOD, HASH, ODD, changed, paths
from tests.runtime.test_members import ALL, LIBRARY, WEIGHTS, WHOLE, with_members

# Beyond what Python asks: dimensions whose product no memory holds, and characters that no Unicode version has are let through.
OF_THE_MANIFEST = ("its manifest is not sound", "has no readable manifest.json", "has a newer schema")


def refusal(library: Library, path: Path, *arguments: Any) -> str:
    """The status and sentence that a file is refused with; "" where it is loaded."""
    try:
        library.release(library.load(path, *arguments))
    except LibraryError as error:
        text = str(error)
        assert text.isprintable() and str(path)[-100:] in text
        return text
    return ""


def in_file(folder: Path, data: bytes) -> Path:
    path = folder / "a.edgeemo"
    path.write_bytes(data)
    path.chmod(0o644)
    return path


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\5\6" + bytes(18),
        WHOLE + b"x",
        WHOLE[:-1],
        with_members(*ALL[:2]),
        with_members(*ALL, ("more", b"")),
        with_members(*ALL[:2], ("../weights.bin", WEIGHTS)),
        with_members(*ALL[:2], ALL[1]),
        with_members(*ALL, compression=8),
        with_members(*ALL),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_artifact(library: Library, tmp_path: Path, data: bytes) -> None:
    assert "is cut off or not an edgeemo artifact" in refusal(library, in_file(tmp_path, data))


@pytest.mark.parametrize(
    ("path", "status"), [("no/such", "NO_FILE"), ("/dev/zero", "DAMAGED"), ("/dev/null", "DAMAGED"), ("/", "NO_FILE")]
)
def test_odd_paths(library: Library, path: str, status: str) -> None:
    assert refusal(library, Path(path)).startswith(status)


def test_a_file_beyond_all_bounds_takes_no_memory(library: Library, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert refusal(library, tmp_path / "sparse").startswith("DAMAGED")


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(WHOLE)))
def test_any_damage_that_python_sees_is_seen(
    library: Library, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(WHOLE)
    for at, value in changes:
        data[at] = value
    path = in_file(tmp_path_factory.getbasetemp(), bytes(data[:cut] if cut % 3 else data))
    said = refusal(library, path)
    try:
        read_members(path)
    except EdgeEmoError:
        assert "is cut off or not" in said


def of_manifest(library: Library, folder: Path, manifest: bytes) -> bool:
    """Whether the manifest itself is refused. The rest of the archive is no model, so something always is."""
    said = refusal(library, in_file(folder, pack(manifest, LIBRARY, WEIGHTS)))
    assert said
    return any(words in said for words in OF_THE_MANIFEST)


def python_refuses(manifest: bytes) -> bool:
    try:
        parse_manifest(Path("a"), manifest)
    except EdgeEmoError:
        return True
    return False


def test_a_sound_manifest_is_read(library: Library, tmp_path: Path) -> None:
    assert not of_manifest(library, tmp_path, json.dumps(GOOD).encode())
    assert not of_manifest(library, tmp_path, json.dumps({**GOOD, "around": None, "stream": None}).encode())
    odd = {**GOOD, "quantization": [float("nan"), float("inf"), float("-inf"), -1.5e-300, 10**40, '\u1234\n"\\', {}, [], True]}
    assert not of_manifest(library, tmp_path, json.dumps(odd).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 100_000, b"\xff", b"null", b"[]", b'{"schema": "1"}', b'{"schema": null}', b"{}", b'{"schema": 99}', b"1"],
)
def test_what_is_no_manifest(library: Library, tmp_path: Path, data: bytes) -> None:
    assert python_refuses(data) and of_manifest(library, tmp_path, data)


@settings(max_examples=300)
@given(st.sampled_from([p for p in paths(GOOD) if p]), ODD)
def test_any_value_anywhere(library: Library, tmp_path_factory: pytest.TempPathFactory, at: tuple[Any, ...], value: Any) -> None:
    data = json.dumps(changed(at, value)).encode()
    if python_refuses(data):
        assert of_manifest(library, tmp_path_factory.getbasetemp(), data)


@pytest.mark.parametrize("seed", range(4))
def test_documents_and_text_that_are_almost_right(library: Library, tmp_path: Path, seed: int) -> None:
    rng, refused = random.Random(seed), 0
    for _ in range(150):
        data = json.dumps(damaged_document(GOOD, rng)).encode()
        data = damaged(data, rng) if rng.random() < 0.5 else data
        if python_refuses(data):
            refused += 1
            assert of_manifest(library, tmp_path, data), data
    assert refused > 50


# -- whole artifacts ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_artifact_is_loaded_and_known(library: Library, host_artifacts: dict[str, Path]) -> None:
    model, python = library.load(host_artifacts["int8"]), load_artifact(host_artifacts["int8"])
    info = library.info(model)
    stream, step = python.manifest["stream"], python.manifest["step"]
    assert (info.version.decode(), info.target.decode(), info.is_stream) == (python.version, "host", 1)
    assert (info.sample_rate, info.samples_per_step, info.ring_samples) == (8000, 1280, stream["ring_samples"])
    assert (info.state_bytes, info.arena_bytes) == (4 * step["state_words"], step["arena_bytes_per_stream"])
    assert info.weight_bytes == python.weights.size
    labels = [library.c.edgeemo_model_label(model, i).decode() for i in range(info.label_count)]
    assert labels == stream["labels"] and library.c.edgeemo_model_label(model, info.label_count) is None
    library.release(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(schema=99), "UNFIT: .*has a newer schema"),
        (lambda m: m["target"].update(machine="riscv64"), "UNFIT: .*is for riscv64"),
        (lambda m: m["target"].update(cpu="znver9", needs=["avx2048"]), "UNFIT: .*lacks its avx2048; .* host"),
        (lambda m: m.pop("step"), "DAMAGED: .*not sound: it lacks step"),
        (lambda m: m["step"].update(function="other"), "BAD_CODE: .*no function other"),
        (lambda m: m["around"]["columns"]["rules"].reverse(), "UNFIT: .*no functions around its step"),
        (lambda m: m["step"].update(state_words=16), "states.offset_words must be within"),
        (lambda m: m["step"].update(arena_bytes_per_stream=0), "BAD_CODE: .*does not fit its manifest .*arena is smaller"),
    ],
)
def test_manifests_that_do_not_fit(
    library: Library, host_artifacts: dict[str, Path], tmp_path: Path, change: Any, words: str
) -> None:
    from tests.c.library import Engine

    path = in_file(tmp_path, repacked(host_artifacts["int8"], change))
    with pytest.raises(LibraryError, match=words):
        Engine(library, library.load(path), 16)


@pytest.mark.slow
def test_one_bit_anywhere(library: Library, host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    whole, rng = host_artifacts["int8"].read_bytes(), random.Random(5)
    for at in [3_000_000, *(rng.randrange(len(whole)) for _ in range(20))]:
        path = in_file(tmp_path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        said = refusal(library, path)
        try:
            load_artifact(path)
        except EdgeEmoError:
            assert said


@pytest.mark.slow
def test_libraries_that_are_none(library: Library, host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    """With the right hash, so that the loader has to see it."""
    members, rng, refused = read_members(host_artifacts["int8"]), random.Random(1), 0
    manifest = json.loads(members.manifest)
    for i in range(150):
        head = bytearray(members.library[:4096])
        for _ in range(rng.choice((1, 2, 8))):
            head[rng.randrange(len(head) if i % 2 else 512)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        code = bytes(head) + members.library[4096 : rng.choice((len(members.library), 100_000))]
        manifest["files"]["step.so"] = hashlib.sha256(code).hexdigest()
        said = refusal(library, in_file(tmp_path, pack(json.dumps(manifest).encode(), code, members.weights.data)))
        refused += said.startswith("BAD_CODE")
    assert refused > 40


# -- folders that `edgeemo-run install` made ----------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_installed_folder_is_the_archive_it_was(library: Library, host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    """Its version and its signature as well, which is of the archive's bytes."""
    key = new_key()
    us = public_text(key).splitlines()[1]
    folder = tmp_path / store.install(host_artifacts["int8"], tmp_path)
    assert refusal(library, folder) == ""
    model = library.load(folder)
    assert library.info(model).version.decode() == load_artifact(host_artifacts["int8"]).version
    library.release(model)
    assert "is not signed" in refusal(library, folder, (us,))
    (folder / "artifact.minisig").write_text(signature_text(key, host_artifacts["int8"].read_bytes(), "sequence:7"))
    assert refusal(library, folder, (us,)) == ""
    (folder / "artifact.minisig").write_text(signature_text(key, host_artifacts["int8"].read_bytes() + b"x", "sequence:7"))
    assert "its signature is not of these bytes" in refusal(library, folder, (us,))


@pytest.mark.slow
def test_folders_that_are_refused(library: Library, host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / store.install(host_artifacts["int8"], tmp_path)
    weights = folder / "weights.bin"
    for place in (folder, weights):
        mode = place.stat().st_mode
        place.chmod(mode | 0o022)
        assert "others may write it" in refusal(library, folder)
        place.chmod(mode)
    folder.chmod(0o755)
    data = weights.read_bytes()
    weights.unlink()
    assert refusal(library, folder).startswith("NO_FILE") and "weights.bin" in refusal(library, folder)
    weights.symlink_to("manifest.json")
    assert refusal(library, folder).startswith("NO_FILE")
    weights.unlink()
    weights.mkdir()
    assert refusal(library, folder).startswith("DAMAGED")
    weights.rmdir()
    weights.write_bytes(data[:-1])
    assert "weights.bin is not what was packed" in refusal(library, folder)


# -- trust -------------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_signatures(library: Library, host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    key, other = new_key(), new_key()
    data = host_artifacts["int8"].read_bytes()
    path, signature = in_file(tmp_path, data), tmp_path / "a.edgeemo.minisig"
    us, them = (public_text(k).splitlines()[1] for k in (key, other))
    assert "is not signed" in refusal(library, path, (us,))
    text = signature_text(key, data, "timestamp:5\tsequence:7")
    signature.write_text(text)
    assert refusal(library, path, (them, us)) == ""
    assert "is signed with key" in refusal(library, path, (them,))
    with pytest.raises(LibraryError, match="INVALID: key 0 is no minisign public key"):
        library.load(path, ("RWQ", us))
    signature.write_text(text.replace("sequence:7", "sequence:8"))
    assert "the comment in its signature was changed" in refusal(library, path, (us,))
    signature.write_text(text[:40])
    assert "is no minisign signature" in refusal(library, path, (us,))
    signature.write_text(signature_text(key, data + b"x", "sequence:7"))
    assert "its signature is not of these bytes" in refusal(library, path, (us,))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may give files away")
def test_what_others_may_write(library: Library, host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    path = in_file(tmp_path, host_artifacts["int8"].read_bytes())
    for mode in (0o666, 0o664, 0o602):
        path.chmod(mode)
        assert "UNTRUSTED" in refusal(library, path)
        assert refusal(library, path, (), True) == ""
    path.chmod(0o644)
    os.chown(path, 12345, -1)
    assert "others may write it" in refusal(library, path)


def test_the_hashes_are_hashlib_s(library: Library, tmp_path: Path) -> None:
    """Every length around a block's: a right hash lets the loader come to the library, which is none."""
    manifest = json.loads(json.dumps(GOOD))
    for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1000):
        weights = bytes(i % 251 for i in range(size))
        manifest["files"] = {"step.so": hashlib.sha256(LIBRARY).hexdigest(), "weights.bin": hashlib.sha256(weights).hexdigest()}
        manifest["target"] = {**GOOD["target"], "needs": [], "machine": os.uname().machine}
        path = in_file(tmp_path, pack(json.dumps(manifest).encode(), LIBRARY, weights))
        assert refusal(library, path).startswith("BAD_CODE")
        manifest["files"]["weights.bin"] = HASH
        assert "weights.bin is not what was packed" in refusal(
            library, in_file(tmp_path, pack(json.dumps(manifest).encode(), LIBRARY, weights))
        )
