"""TOML and JSON that somebody wrote: read whole, or refused in a line, however deep, large or odd they are."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeemo_runtime.errors import EdgeEmoError, first_line

MAX_BYTES = 1 << 28


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's table. Raises EdgeEmoError naming the file if it cannot be read or is none."""
    return dict(_read(path, tomllib.loads, "TOML"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object. Raises EdgeEmoError naming the file if it cannot be read or holds none."""
    found = _read(path, json.loads, "JSON")
    if not isinstance(found, dict):
        raise EdgeEmoError(f"{path}: is not a JSON object")
    return found


def _read(path: Path, parse: Callable[[str], Any], kind: str) -> Any:
    try:
        if not path.is_file() and path.exists():
            raise EdgeEmoError(f"{path}: is no file")
        if path.stat().st_size > MAX_BYTES:
            raise EdgeEmoError(f"{path}: has {path.stat().st_size} bytes, which is no {kind} of ours")
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgeEmoError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise EdgeEmoError(f"{path}: is not {kind} ({first_line(error)})") from error
