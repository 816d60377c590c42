"""An artifact's members as bytes: how they lie in an archive or a folder, read whole into memory of this process.

Nothing is mapped from the file: what was checked is what runs, and a file that is overwritten later harms no call. Reading goes
block by block, so that a live process may answer calls in between.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.manifest import LIBRARY, MANIFEST, WEIGHTS
from edgeemo_runtime.memory import ALIGNMENT, aligned_zeros

SIGNATURE = ".minisig"  # behind an archive's name, as minisign has it
FOLDER_SIGNATURE = f"artifact{SIGNATURE}"
LIMITS = {MANIFEST: 1 << 23, LIBRARY: 1 << 27, WEIGHTS: 1 << 32}  # bytes
SIGNATURE_LIMIT = 4096
BLOCK = 1 << 18  # bytes read at once
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same members give the same archive
_END = struct.Struct("<4s4H2LH")  # a ZIP archive's last record

Reading = Generator[None, None, "Members"]


@dataclass
class Members:
    """Members of an artifact as read, not checked yet. ``exposed``: the file or folder that others than root and this user may
    write, if any."""

    path: Path
    manifest: bytes
    library: bytes
    weights: np.ndarray[Any, np.dtype[np.uint8]]
    signature: bytes | None
    exposed: Path | None

    def archive(self) -> bytes:
        """The archive of these members, which is what a signature is of."""
        return pack(self.manifest, self.library, self.weights.data)


def pack(manifest: bytes, library: bytes, weights: bytes | memoryview) -> bytes:
    """The archive's bytes. Members are stored, not compressed, each at a multiple of 64 bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in ((MANIFEST, manifest), (LIBRARY, library), (WEIGHTS, weights)):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16  # Unix
            header = 30 + len(name.encode())  # a local file header without extra field
            padding = -(out.tell() + header + 4) % ALIGNMENT
            # An extra field of id 0xFFFF ("private") whose length moves the data to the boundary, as Android's zipalign does.
            info.extra = b"\xff\xff" + padding.to_bytes(2, "little") + bytes(padding)
            archive.writestr(info, data)
    return out.getvalue()


def read_members(path: Path) -> Members:
    """Reads an archive, or the folder that one was unpacked to. Raises EdgeEmoError, one line, if it is missing or not whole."""
    reading = reading_members(path)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            members: Members = end.value
            return members


def reading_members(path: Path) -> Reading:
    """As read_members, a block with every ``next``."""
    try:
        if path.is_dir():
            return (yield from _read_folder(path))
        return (yield from _read_archive(path))
    except FileNotFoundError as error:
        missing = path if error.filename in (None, str(path)) else path / str(error.filename)
        raise EdgeEmoError(f"{missing}: no such file; `edgeemo compile` writes artifacts") from error
    except PermissionError as error:
        raise EdgeEmoError(f"{path}: cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise EdgeEmoError(f"{path}: does not fit this machine's memory") from error
    except (
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        KeyError,
        OSError,
        ValueError,
        struct.error,
    ) as error:
        raise EdgeEmoError(f"{path}: is cut off or not an edgeemo artifact; copy it again ({first_line(error)})") from error


def _open(name: str | Path, limit: int, folder: int | None = None) -> tuple[int, os.stat_result]:
    """A regular file for reading; within a folder no link, which may lead out of it."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if folder is None else os.O_NOFOLLOW)
    handle = os.open(name, flags, dir_fd=folder)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
        os.close(handle)
        raise ValueError(f"{name} is no file" if found.st_size <= limit else f"{name} has {found.st_size} bytes")
    return handle, found


def is_exposed(found: os.stat_result) -> bool:
    """Whether others than root and this user may write it."""
    return bool(found.st_mode & 0o022) or found.st_uid not in (0, os.geteuid())


def _read(handle: int, offset: int, out: memoryview) -> Generator[None, None, None]:
    for at in range(0, len(out), BLOCK):
        data = os.pread(handle, min(BLOCK, len(out) - at), offset + at)
        if len(data) < min(BLOCK, len(out) - at):
            raise EOFError("it ends too soon")
        out[at : at + len(data)] = data
        yield


def _read_folder(path: Path) -> Reading:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        exposed = path if is_exposed(os.fstat(folder)) else None
        parts: dict[str, np.ndarray] = {}
        for name, limit in LIMITS.items():
            handle, found = _open(name, limit, folder)
            try:
                exposed = path / name if is_exposed(found) and exposed is None else exposed
                parts[name] = aligned_zeros((found.st_size,), np.uint8)
                yield from _read(handle, 0, parts[name].data)
            finally:
                os.close(handle)
        signature = _read_signature(FOLDER_SIGNATURE, folder)
    finally:
        os.close(folder)
    return Members(path, parts[MANIFEST].tobytes(), parts[LIBRARY].tobytes(), parts[WEIGHTS], signature, exposed)


def _read_archive(path: Path) -> Reading:
    handle, found = _open(path, sum(LIMITS.values()))
    with open(handle, "rb", buffering=0) as file:
        places = _places(file, found.st_size)
        parts = {name: aligned_zeros((size,), np.uint8) for name, (_, size) in places.items()}
        for name, (offset, _) in places.items():
            yield from _read(handle, offset, parts[name].data)
    signature = _read_signature(f"{path}{SIGNATURE}", None)
    exposed = path if is_exposed(found) else None
    return Members(path, parts[MANIFEST].tobytes(), parts[LIBRARY].tobytes(), parts[WEIGHTS], signature, exposed)


def _read_signature(name: str, folder: int | None) -> bytes | None:
    try:
        handle, _ = _open(name, SIGNATURE_LIMIT, folder)
    except FileNotFoundError:
        return None
    try:
        return os.read(handle, SIGNATURE_LIMIT)
    finally:
        os.close(handle)


def _places(file: Any, size: int) -> dict[str, tuple[int, int]]:
    """Offset and length of each member in an archive of ``size`` bytes: exactly the three members, once, as
    they are."""
    if size < _END.size:
        raise zipfile.BadZipFile("it is too short")
    mark, _, _, _, entries, directory, start, comment = _END.unpack(os.pread(file.fileno(), _END.size, size - _END.size))
    # Its directory is small and ends where the file does: an archive with millions of members is not even looked at.
    if mark != b"PK\5\6" or comment or entries != len(LIMITS) or directory > BLOCK or start + directory + _END.size != size:
        raise zipfile.BadZipFile("it does not end as an artifact does")
    with zipfile.ZipFile(file) as archive:
        found = archive.infolist()
    if sorted(i.filename for i in found) != sorted(LIMITS):
        raise zipfile.BadZipFile(f"it does not hold {', '.join(LIMITS)} and nothing else")
    return {info.filename: _place(file, size, info) for info in found}


def _place(file: Any, size: int, info: zipfile.ZipInfo) -> tuple[int, int]:
    header = os.pread(file.fileno(), 30, info.header_offset)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile(f"{info.filename} has no header")
    start = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    plain = info.compress_type == zipfile.ZIP_STORED and info.flag_bits & ~0x800 == 0 and info.file_size == info.compress_size
    if not plain or start % ALIGNMENT or start + info.file_size > size:
        raise zipfile.BadZipFile(f"{info.filename} is not stored aligned")
    if info.file_size > LIMITS[info.filename]:
        raise zipfile.BadZipFile(f"{info.filename} has {info.file_size} bytes")
    return start, info.file_size
