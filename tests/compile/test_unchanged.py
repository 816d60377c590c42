"""The comparison of artifacts that `make unchanged` rests on."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tests.compile.unchanged import differences


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def test_equal_members_are_no_difference_whatever_the_archive_says_of_them(tmp_path: Path) -> None:
    first = archive(tmp_path / "a", code=b"1", weights=b"2")
    second = archive(tmp_path / "b", weights=b"2", code=b"1")
    assert differences(first, second) == []


def test_a_changed_byte_and_a_missing_member_are_named(tmp_path: Path) -> None:
    first = archive(tmp_path / "a", code=b"1", weights=b"2", notes=b"")
    second = archive(tmp_path / "b", code=b"1", weights=b"3")
    assert differences(first, second) == ["notes", "weights"]
