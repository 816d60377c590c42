"""Archives and folders that are read: whole, stored, of the three members, and read into memory of our own."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.members import BLOCK, pack, read_members, reading_members
from hypothesis import given
from hypothesis import strategies as st

MANIFEST, LIBRARY, WEIGHTS = b'{"schema": 1}', b"lib" * 1000, bytes(range(256)) * 40
WHOLE = pack(MANIFEST, LIBRARY, WEIGHTS)


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "a.edgeemo"
    path.write_bytes(data)
    return path


def unpacked(folder: Path) -> Path:
    folder.mkdir()
    for name, data in (("manifest.json", MANIFEST), ("step.so", LIBRARY), ("weights.bin", WEIGHTS)):
        (folder / name).write_bytes(data)
    return folder


def test_archive_and_folder_are_the_same_members(tmp_path: Path) -> None:
    for path in (written(tmp_path, WHOLE), unpacked(tmp_path / "m")):
        members = read_members(path)
        assert (members.manifest, members.library, members.weights.tobytes()) == (MANIFEST, LIBRARY, WEIGHTS)
        assert members.weights.ctypes.data % 64 == 0
        assert members.archive() == WHOLE
        assert members.exposed is None


def test_what_was_read_is_not_the_file_s_any_more(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    members = read_members(path)
    path.write_bytes(b"\xff" * len(WHOLE))
    os.truncate(path, 0)
    assert members.weights.tobytes() == WEIGHTS


def test_reading_goes_block_by_block(tmp_path: Path) -> None:
    path = written(tmp_path, pack(MANIFEST, LIBRARY, bytes(3 * BLOCK)))
    assert sum(1 for _ in reading_members(path)) == 5


def with_members(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


ALL = (("manifest.json", MANIFEST), ("step.so", LIBRARY), ("weights.bin", WEIGHTS))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (b"PK\5\6" + bytes(18), "does not end as an artifact does"),
        (WHOLE + b"x", "does not end as an artifact does"),
        (WHOLE[:-1], "does not end as an artifact does"),
        (with_members(*ALL[:2]), "does not end as an artifact does"),
        (with_members(*ALL, ("more", b"")), "does not end as an artifact does"),
        (with_members(*ALL[:2], ("../weights.bin", WEIGHTS)), "nothing else"),
        (with_members(*ALL[:2], ALL[1]), "nothing else"),
        (with_members(*ALL, compression=zipfile.ZIP_DEFLATED), "is not stored aligned"),
        (with_members(*ALL), "is not stored aligned"),
    ],
    ids=["nothing", "end alone", "longer", "shorter", "one less", "one more", "outside", "twice", "compressed", "not aligned"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_artifact_is_said_in_a_line(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(EdgeEmoError, match=words) as caught:
        read_members(written(tmp_path, data))
    assert "\n" not in str(caught.value) and "a.edgeemo" in str(caught.value)


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99), (6, 235), (24, 255), (42, 255), (20, 7)])
def test_odd_directory_entries(tmp_path: Path, offset: int, value: int) -> None:
    """Encrypted, an unknown method, a newer zip, sizes and offsets that lead elsewhere."""
    odd = bytearray(WHOLE)
    odd[WHOLE.find(b"PK\1\2") + offset] = value
    with pytest.raises(EdgeEmoError, match=r"a\.edgeemo"):
        read_members(written(tmp_path, bytes(odd)))


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(WHOLE)))
def test_any_damage_is_members_or_a_line(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(WHOLE)
    for at, value in changes:
        data[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.edgeemo"
    path.write_bytes(data[:cut] if cut % 3 else data)
    try:
        members = read_members(path)
    except EdgeEmoError as error:
        assert "\n" not in str(error)
    else:
        assert members.weights.size <= len(WHOLE)


@pytest.mark.parametrize("name", ["manifest.json", "step.so", "weights.bin"])
@pytest.mark.parametrize(
    "put",
    [
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to(path),
        lambda path: None,
    ],
    ids=["fifo", "folder", "link", "loop", "missing"],
)
def test_a_folder_s_members_are_files_of_it(tmp_path: Path, name: str, put: Callable[[Path], None]) -> None:
    folder = unpacked(tmp_path / "m")
    (folder / name).unlink()
    put(folder / name)
    with pytest.raises(EdgeEmoError, match=str(folder)):
        read_members(folder)


@pytest.mark.parametrize("path", ["no/such.edgeemo", "/dev/zero", "/dev/null", "/proc/self/mem"])
def test_odd_paths(path: str) -> None:
    with pytest.raises(EdgeEmoError, match=path):
        read_members(Path(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may give files away")
@pytest.mark.parametrize("mode", [0o666, 0o664, 0o602, 0o644])
def test_what_others_may_write_is_seen(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, WHOLE)
    path.chmod(mode)
    if mode == 0o644:
        os.chown(path, 12345, -1)
    assert read_members(path).exposed == path
    folder = unpacked(tmp_path / "m")
    (folder / "step.so").chmod(mode | 0o020)
    assert read_members(folder).exposed == folder / "step.so"
    folder.chmod(0o777)
    assert read_members(folder).exposed == folder


def test_sizes_beyond_all_bounds_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.edgeemo"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(EdgeEmoError, match="bytes"):
        read_members(path)
    odd = bytearray(WHOLE)
    at = WHOLE.rfind(b"PK\1\2")
    odd[at + 20 : at + 28] = struct.pack("<LL", 0xFFFFFFF0, 0xFFFFFFF0)
    with pytest.raises(EdgeEmoError, match="aligned"):
        read_members(written(tmp_path, bytes(odd)))


def test_packing_is_deterministic_and_aligned() -> None:
    assert pack(MANIFEST, LIBRARY, memoryview(np.frombuffer(WEIGHTS, np.uint8))) == WHOLE
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            name, extra = np.frombuffer(WHOLE[info.header_offset + 26 : info.header_offset + 30], "<u2")
            assert (info.header_offset + 30 + int(name) + int(extra)) % 64 == 0
