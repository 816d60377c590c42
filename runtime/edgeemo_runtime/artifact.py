"""Reads artifacts: one archive of manifest, library and weights, every part checked before anything of it runs.

The format is described in docs/artifact.md; the compiler writes it (edgeemo/compile/package.py).
"""

from __future__ import annotations

import json
import mmap
import platform
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.machine import vector_extensions

SCHEMA = 1
MANIFEST, LIBRARY, WEIGHTS = "manifest.json", "step.so", "weights.bin"
ALIGNMENT = 64  # bytes; of the weights within the file
REQUIRED = ("schema", "target", "step", "stream", "states", "files")


@dataclass
class Artifact:
    """A verified artifact. ``weights`` is a private mapping of the file: shared until written, and nothing writes it."""

    path: Path
    manifest: dict[str, Any]
    library: bytes
    weights: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def version(self) -> str:
        """Date and the first digits of the weights' hash: what tells two models apart in counters and logs."""
        return f"{self.manifest.get('created', 'undated')}-{self.manifest['files'][WEIGHTS][:8]}"

    def load_step(self) -> Any:
        """The compiled step as a callable of tvm_ffi tensors. Raises EdgeEmoError if the library does not load."""
        return self._load(self.manifest["step"]["function"])

    def load_around(self) -> tuple[Any, Any] | None:
        """What the library has for around the network (around.py), in calling order; None in one without."""
        names = self.manifest.get("around")
        return None if names is None else (self._load(names["intake"]), self._load(names["decide"]))

    def _load(self, function: str) -> Any:
        key = self.manifest["files"][LIBRARY]
        if key not in _libraries:
            _libraries[key] = self._open_library()
        try:
            return _libraries[key][function]
        except AttributeError as error:
            raise EdgeEmoError(f"{self.path}: its library has no function {function}; compile it again") from error

    def _open_library(self) -> Any:
        import tvm_ffi

        # dlopen wants a file; once it is mapped the name is not needed any more.
        with tempfile.TemporaryDirectory(prefix="edgeemo-") as folder:
            library = Path(folder, LIBRARY)
            library.write_bytes(self.library)
            try:
                return tvm_ffi.load_module(str(library))
            except (RuntimeError, AttributeError, OSError) as error:
                raise EdgeEmoError(f"{self.path}: its library does not load here ({str(error).splitlines()[0]})") from error


# By the library's hash. A library that was opened stays in the process (0.2 MB), so a model that comes back, as after a rollback,
# is not opened again. Its code writes to nothing but what it is given: engines may share it.
_libraries: dict[str, Any] = {}


def read_manifest(path: Path, read: Callable[[str], bytes]) -> dict[str, Any]:
    """The manifest, which ``read`` reads by its name. Raises EdgeEmoError if this runtime does not understand it."""
    try:
        manifest = json.loads(read(MANIFEST))
        schema = manifest["schema"]
    except (KeyError, ValueError, TypeError, FileNotFoundError) as error:
        raise EdgeEmoError(f"{path}: has no readable {MANIFEST}; is it an edgeemo artifact?") from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise EdgeEmoError(f"{path}: has schema {schema}, this runtime reads up to {SCHEMA}; upgrade edgeemo-runtime")
    if missing := [k for k in REQUIRED if k not in manifest]:
        raise EdgeEmoError(f"{path}: its manifest lacks {', '.join(missing)}; compile it again")
    return dict(manifest)


def load_artifact(path: str | Path) -> Artifact:
    """An artifact, or the folder that one was unpacked to. Raises EdgeEmoError, one line, if it is missing, cut off, altered, of
    a newer schema or for another machine."""
    import hashlib  # late, for single_core.without_openssl

    path = Path(path)
    if not path.exists():
        raise EdgeEmoError(f"{path}: no such file; `edgeemo compile` writes artifacts")
    try:
        manifest, library, weights = _read_folder(path) if path.is_dir() else _read_archive(path)
    except (zipfile.BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
        raise EdgeEmoError(f"{path}: is cut off or not an edgeemo artifact; copy it again ({error})") from error
    for name, data in ((LIBRARY, library), (WEIGHTS, weights.data)):
        if hashlib.sha256(data).hexdigest() != manifest["files"].get(name):
            raise EdgeEmoError(f"{path}: {name} is not what was packed (sha256 differs); copy it again")
    return Artifact(path, manifest, library, weights)


def _check_machine(path: Path, manifest: dict[str, Any]) -> None:
    machine = manifest["target"]["machine"]
    if machine != platform.machine():
        raise EdgeEmoError(
            f"{path}: is for {machine} ({manifest['target']['name']}), this machine is {platform.machine()}; "
            "compile it for this one with --target host"
        )
    if missing := set(manifest["target"].get("needs", ())) - (vector_extensions() or set()):
        raise EdgeEmoError(
            f"{path}: is for {manifest['target']['cpu']}, this machine lacks its {', '.join(sorted(missing))}; "
            "compile it here with --target host"
        )


def unpack_artifact(path: Path, folder: Path) -> None:
    """Its members as files of ``folder``."""
    with zipfile.ZipFile(path) as archive:
        for name in (MANIFEST, LIBRARY, WEIGHTS):
            (folder / name).write_bytes(archive.read(name))


def _read_archive(path: Path) -> tuple[dict[str, Any], bytes, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        manifest = read_manifest(path, archive.read)
        _check_machine(path, manifest)
        return manifest, archive.read(LIBRARY), _map_member(path, archive, WEIGHTS)


def _read_folder(path: Path) -> tuple[dict[str, Any], bytes, np.ndarray]:
    manifest = read_manifest(path, lambda name: (path / name).read_bytes())
    _check_machine(path, manifest)
    with (path / WEIGHTS).open("rb") as file:
        weights = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
    return manifest, (path / LIBRARY).read_bytes(), weights


def _map_member(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    info = archive.getinfo(name)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
        if len(header) < 30:
            raise EOFError(name)
        start = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        file.seek(0, 2)
        if info.compress_type != zipfile.ZIP_STORED or start % ALIGNMENT or start + info.file_size > file.tell():
            raise zipfile.BadZipFile(f"{name} is not stored aligned")
        page = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        view = mmap.mmap(file.fileno(), start - page + info.file_size, access=mmap.ACCESS_COPY, offset=page)
    return np.frombuffer(view, np.uint8, info.file_size, start - page)
