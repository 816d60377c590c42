"""Models on a board: DIR/cosyVoice-v{date}/ for each, DIR/current for the one that serves, DIR/previous for the way back.

Every change is one rename: whatever instant a process is killed at, ``current`` is a model that was complete and had loaded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeemo_runtime.artifact import LIBRARY, MANIFEST, WEIGHTS, load_artifact, unpack_artifact
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.model import Model

PREFIX, INCOMING = "cosyVoice-v", ".incoming-"
CURRENT, PREVIOUS, CANARY = "current", "previous", "canary"


@dataclass(frozen=True)
class Installed:
    name: str
    version: str
    role: str  # current, previous, canary or nothing
    problem: str  # empty if every check passes


def install(artifact: Path, folder: Path, role: str = CURRENT) -> str:
    """Unpacks ``artifact`` beside the others, runs it once, makes it current or the canary. Returns its name.

    Raises EdgeEmoError, and leaves everything as it was, if it does not load, answers nonsense, or is installed already.
    """
    loaded = load_artifact(artifact)
    Model(loaded, 1).warm_up()
    with _errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in _names(folder):
            if not _problem(folder / name) and load_artifact(folder / name).manifest == loaded.manifest:
                raise EdgeEmoError(
                    f"{artifact}: is installed as {folder / name}; `edgeemo-run rollback` or `list` may be what you want"
                )
        incoming = Path(tempfile.mkdtemp(prefix=INCOMING, dir=folder))
        try:
            unpack_artifact(artifact, incoming)
            for file in (LIBRARY, WEIGHTS, MANIFEST):
                _sync(incoming / file)
            incoming.chmod(0o755)
            _sync(incoming)
            name = _move(incoming, folder, PREFIX + loaded.manifest["created"])
        except BaseException:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        if role == CANARY:
            _link(folder / CANARY, name)
        else:
            _make_current(folder, name)
        _sweep(folder)
    return name


def promote(folder: Path) -> str:
    """Makes the canary current. Returns its name."""
    with _errors(folder):
        name = linked(folder, CANARY)
        if name is None:
            raise EdgeEmoError(f"{folder}: has no canary")
        _make_current(folder, name)
        (folder / CANARY).unlink()
    return name


def drop_canary(folder: Path) -> None:
    with _errors(folder):
        (folder / CANARY).unlink(missing_ok=True)


def _make_current(folder: Path, name: str) -> None:
    old = linked(folder, CURRENT)
    if old is not None:
        _link(folder / PREVIOUS, old)
    _link(folder / CURRENT, name)


def rollback(folder: Path) -> str:
    """Makes the previous model current, and that one previous. Returns its name. Raises EdgeEmoError if there is none, or it is
    broken."""
    with _errors(folder):
        old, back = linked(folder, CURRENT), linked(folder, PREVIOUS)
        if back is None or back == old:
            raise EdgeEmoError(f"{folder}: no model to go back to; `edgeemo-run list` shows what is there")
        if problem := _problem(folder / back):
            raise EdgeEmoError(f"{folder / back}: cannot serve ({problem}); {old} stays")
        _link(folder / CURRENT, back)
        if old is not None:
            _link(folder / PREVIOUS, old)
    return back


def installed(folder: Path) -> list[Installed]:
    """Every model with its checks, by name. Raises EdgeEmoError if there is no such folder."""
    if not folder.is_dir():
        raise EdgeEmoError(f"{folder}: no such folder; `edgeemo-run install ARTIFACT --models {folder}` makes it")
    with _errors(folder):
        roles = {linked(folder, role): role for role in (CANARY, PREVIOUS, CURRENT)}
        rows = []
        for name in _names(folder):
            problem = _problem(folder / name)
            version = "" if problem else load_artifact(folder / name).version
            rows.append(Installed(name, version, roles.get(name, ""), problem))
        return rows


def current(folder: Path) -> Path:
    """The model that serves. Raises EdgeEmoError if none is installed."""
    name = linked(folder, CURRENT)
    if name is None:
        raise EdgeEmoError(f"{folder}: has no current model; `edgeemo-run install ARTIFACT --models {folder}` makes one")
    return folder / name


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(PREFIX) and p.is_dir() and not p.is_symlink())


def _problem(path: Path) -> str:
    try:
        load_artifact(path)
    except EdgeEmoError as error:
        return str(error)
    return ""


def linked(folder: Path, role: str) -> str | None:
    """The name of the model that is current, previous or the canary; None if there is none."""
    link = folder / role
    return os.readlink(link) if link.is_symlink() and link.exists() else None


def _link(link: Path, name: str) -> None:
    """Points ``link`` at ``name`` in one rename."""
    new = link.with_name(f".{link.name}-{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(name)
    new.replace(link)
    _sync(link.parent)


def _move(incoming: Path, folder: Path, name: str) -> str:
    """Renames to ``name``, or ``name``-2, -3 where that is taken: a folder that is not empty is never renamed over."""
    number = 1
    while True:
        wanted = name if number == 1 else f"{name}-{number}"
        try:
            if not (folder / wanted).exists():
                incoming.rename(folder / wanted)
                return wanted
        except OSError:
            if not (folder / wanted).exists():
                raise
        number += 1


def _sweep(folder: Path) -> None:
    """Removes what a killed installation left behind."""
    for left in folder.glob(f"{INCOMING}*"):
        shutil.rmtree(left, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EdgeEmoError(f"{error.filename or folder}: {error.strerror}") from error
