"""Writes an artifact: manifest, library and weights in one archive (docs/artifact.md; edgeemo_runtime.artifact reads it)."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

from edgeemo_runtime.artifact import ALIGNMENT, LIBRARY, MANIFEST, WEIGHTS

EPOCH = (1980, 1, 1, 0, 0, 0)  # the same input gives the same bytes


def pack_artifact(manifest: dict[str, Any], library: bytes, weights: bytes) -> bytes:
    """The archive's bytes. Members are stored, not compressed, and the weights start at a multiple of 64 bytes, so that a runtime
    maps them from the file."""
    members = {LIBRARY: library, WEIGHTS: weights}
    manifest = {**manifest, "files": {n: hashlib.sha256(d).hexdigest() for n, d in members.items()}}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, out, MANIFEST, json.dumps(manifest, indent=1).encode())
        for name, data in members.items():
            _add(archive, out, name, data)
    return out.getvalue()


def _add(archive: zipfile.ZipFile, out: io.BytesIO, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = 0o644 << 16
    header = 30 + len(name.encode())  # a local file header without extra field
    padding = -(out.tell() + header + 4) % ALIGNMENT
    # An extra field of id 0xFFFF ("private") whose length moves the data to the boundary, as Android's zipalign does.
    info.extra = b"\xff\xff" + padding.to_bytes(2, "little") + bytes(padding)
    archive.writestr(info, data)
