"""Writes an artifact: manifest, library and weights in one archive (docs/artifact.md; edgeemo_runtime.members reads it)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from edgeemo_runtime.manifest import LIBRARY, WEIGHTS
from edgeemo_runtime.members import pack


def pack_artifact(manifest: dict[str, Any], library: bytes, weights: bytes) -> bytes:
    """The archive's bytes; the manifest gets the hashes of the other members."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in ((LIBRARY, library), (WEIGHTS, weights))}
    return pack(json.dumps({**manifest, "files": hashes}, indent=1).encode(), library, weights)
