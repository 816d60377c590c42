"""Writing files so that a user never finds half of one, nor loses one they had."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from edgeemo_runtime.errors import EdgeEmoError


def check_output(path: str | Path, force: bool) -> Path:
    """Raises EdgeEmoError before any work is done if ``path`` exists (without force) or cannot be written."""
    path = Path(path)
    if path.is_dir():
        raise EdgeEmoError(f"{path}: is a folder; --out takes a file name")
    if path.exists() and not force:
        raise EdgeEmoError(f"{path}: is there already; --force writes over it, --out names another")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise EdgeEmoError(f"{path}: cannot be written ({error.strerror}); --out names another place") from error
    return path


def write_file(path: str | Path, data: bytes, force: bool, mode: int = 0o644) -> None:
    """Writes to a temporary name next to ``path`` and renames: the old file or the new one, never a mix."""
    path = check_output(path, force)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(partial, mode)
        os.replace(partial, path)
    except OSError as error:
        Path(partial).unlink(missing_ok=True)
        raise EdgeEmoError(f"{path}: cannot be written ({error.strerror})") from error
