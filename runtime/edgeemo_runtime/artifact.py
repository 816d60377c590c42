"""Reads artifacts: one archive of manifest, library and weights, every part checked before anything of it runs.

The format is described in docs/artifact.md; the compiler writes it (edgeemo/compile/package.py).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import platform
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError

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

    def load_step(self) -> Any:
        """The compiled step as a callable of tvm_ffi tensors. Raises EdgeEmoError if the library does not load."""
        import tvm_ffi

        # dlopen wants a file; once it is mapped the name is not needed any more.
        with tempfile.TemporaryDirectory(prefix="edgeemo-") as folder:
            library = Path(folder, LIBRARY)
            library.write_bytes(self.library)
            try:
                return tvm_ffi.load_module(str(library))[self.manifest["step"]["function"]]
            except (RuntimeError, AttributeError, OSError) as error:
                raise EdgeEmoError(f"{self.path}: its library does not load here ({str(error).splitlines()[0]})") from error


def read_manifest(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    try:
        manifest = json.loads(archive.read(MANIFEST))
        schema = manifest["schema"]
    except (KeyError, ValueError, TypeError) as error:
        raise EdgeEmoError(f"{path}: has no readable {MANIFEST}; is it an edgeemo artifact?") from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise EdgeEmoError(f"{path}: has schema {schema}, this runtime reads up to {SCHEMA}; upgrade edgeemo-runtime")
    if missing := [k for k in REQUIRED if k not in manifest]:
        raise EdgeEmoError(f"{path}: its manifest lacks {', '.join(missing)}; compile it again")
    return dict(manifest)


def load_artifact(path: str | Path) -> Artifact:
    """Raises EdgeEmoError, one line, if the file is missing, cut off, altered, of a newer schema or for another machine."""
    path = Path(path)
    if not path.is_file():
        raise EdgeEmoError(f"{path}: no such file; `edgeemo compile` writes artifacts")
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = read_manifest(path, archive)
            machine = manifest["target"]["machine"]
            if machine != platform.machine():
                raise EdgeEmoError(
                    f"{path}: is for {machine} ({manifest['target']['name']}), this machine is {platform.machine()}; "
                    "compile it for this one with --target host"
                )
            library = archive.read(LIBRARY)
            weights = _map_member(path, archive, WEIGHTS)
    except (zipfile.BadZipFile, EOFError, KeyError, OSError) as error:
        raise EdgeEmoError(f"{path}: is cut off or not an edgeemo artifact; copy it again ({error})") from error
    for name, data in ((LIBRARY, library), (WEIGHTS, weights.data)):
        if hashlib.sha256(data).hexdigest() != manifest["files"].get(name):
            raise EdgeEmoError(f"{path}: {name} is not what was packed (sha256 differs); copy it again")
    return Artifact(path, manifest, library, weights)


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
