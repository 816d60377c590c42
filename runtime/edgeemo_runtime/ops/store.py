"""Models on a board: DIR/cosyVoice-v{date}/ for each, DIR/current for the one that serves, DIR/previous for the way back.

Whatever instant a process is killed at, ``current`` is a model that was complete and had been tried, and ``previous`` the one
before it. Whoever changes the folder holds a lock on it, so any number of them may come at once.

Two links cannot be renamed at once, so the second change is written down first: DIR/.previous names the model that is current
now, counts for nothing while that is so, and is the previous one from the instant on at which ``current`` changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeemo_runtime.artifact import Artifact, load_artifact
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.manifest import LIBRARY, MANIFEST, WEIGHTS
from edgeemo_runtime.members import FOLDER_SIGNATURE, Members, is_exposed, read_members
from edgeemo_runtime.probe import probed
from edgeemo_runtime.trust import ANYONE, Trust, folder_signature, parse_signature

PREFIX, INCOMING = "cosyVoice-v", ".incoming-"
CURRENT, PREVIOUS, CANARY = "current", "previous", "canary"
PENDING = f".{PREVIOUS}"
NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,200}", re.ASCII)
AT_WORKING_FOLDER, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


@dataclass(frozen=True)
class Installed:
    name: str
    version: str
    role: str  # current, previous, canary or nothing
    problem: str  # empty if every check passes


def install(artifact: Path, folder: Path, role: str = CURRENT, trust: Trust = ANYONE) -> str:
    """Tries ``artifact`` in a child process, unpacks it next to the others, makes it current or the canary. Returns its name.

    What is written are the bytes that were checked and tried, so the file may change meanwhile. Raises EdgeEmoError, and leaves
    everything as it was, if it is not to be trusted, does not load, answers nonsense, is installed already, or was signed before
    the one that is current.
    """
    members = read_members(artifact)
    loaded = probed(members, trust)
    with _errors(folder):
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        check_folder(folder, trust)
        with _locked(folder):
            _settle(folder)
            _refuse_again(loaded, folder)
            _refuse_older(members, folder)
            _sweep(folder)
            name = _unpack(members, folder, PREFIX + loaded.manifest["created"])
            if role == CANARY:
                _link(folder / CANARY, name)
            else:
                _make_current(folder, name)
    return name


def promote(folder: Path) -> str:
    """Makes the canary current. Returns its name."""
    with _errors(folder), _locked(folder):
        _settle(folder)
        name = linked(folder, CANARY)
        if name is None:
            raise EdgeEmoError(f"{folder}: has no canary")
        _make_current(folder, name)
        (folder / CANARY).unlink()
    return name


def drop_canary(folder: Path) -> None:
    with _errors(folder), _locked(folder):
        (folder / CANARY).unlink(missing_ok=True)


def rollback(folder: Path, trust: Trust = ANYONE) -> str:
    """Makes the previous model current, and that one previous, in one change. Returns its name. Raises EdgeEmoError if there is
    none, or it is broken."""
    if not folder.is_dir():
        raise EdgeEmoError(f"{folder}: no such folder; `edgeemo-run install ARTIFACT --models {folder}` makes it")
    with _errors(folder), _locked(folder):
        _settle(folder)
        old, back = linked(folder, CURRENT), linked(folder, PREVIOUS)
        if back is None or back == old:
            raise EdgeEmoError(f"{folder}: no model to go back to; `edgeemo-run list` shows what is there")
        if problem := _problem(folder / back, trust):
            raise EdgeEmoError(f"{folder / back}: cannot serve ({problem}); {old} stays")
        if not _exchange(folder / CURRENT, folder / PREVIOUS):
            _make_current(folder, back)
    return back


def installed(folder: Path, trust: Trust = ANYONE) -> list[Installed]:
    """Every model with its checks, by name. Raises EdgeEmoError if there is no such folder."""
    if not folder.is_dir():
        raise EdgeEmoError(f"{folder}: no such folder; `edgeemo-run install ARTIFACT --models {folder}` makes it")
    with _errors(folder), _locked(folder, shared=True):
        roles = {linked(folder, role): role for role in (CANARY, PREVIOUS, CURRENT)}
        rows = []
        for name in _names(folder):
            version = problem = ""
            try:
                version = load_artifact(folder / name, trust).version
            except EdgeEmoError as error:
                problem = str(error)
            rows.append(Installed(name, version, roles.get(name, ""), problem))
        return rows


def current(folder: Path, trust: Trust = ANYONE) -> Path:
    """The model that serves. Raises EdgeEmoError if none is installed, or others may change which it is."""
    check_folder(folder, trust)
    name = linked(folder, CURRENT)
    if name is None:
        raise EdgeEmoError(f"{folder}: has no current model; `edgeemo-run install ARTIFACT --models {folder}` makes one")
    return folder / name


def check_folder(folder: Path, trust: Trust) -> None:
    """Raises EdgeEmoError if others than root and this user may change the links in ``folder``, and no signature makes up for
    it."""
    with _errors(folder):
        if not trust.keys and not trust.allow_writable and is_exposed(folder.stat()):
            raise EdgeEmoError(f"{folder}: others may write this folder of models; chmod go-w and chown it, or --allow-writable")


def linked(folder: Path, role: str) -> str | None:
    """The name of the model that is current, previous or the canary; None if there is none. A link that leads anywhere but to a
    folder next to it is none."""
    if role == PREVIOUS and (pending := _target(folder / PENDING)) not in (None, _target(folder / CURRENT)):
        return pending
    return _target(folder / role)


def _target(link: Path) -> str | None:
    try:
        name = os.readlink(link)
    except OSError:
        return None
    there = link.parent / name
    return name if NAME.fullmatch(name) and there.is_dir() and not there.is_symlink() else None


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(PREFIX) and p.is_dir() and not p.is_symlink())


def _problem(path: Path, trust: Trust) -> str:
    try:
        load_artifact(path, trust)
    except EdgeEmoError as error:
        return str(error)
    return ""


def _refuse_again(loaded: Artifact, folder: Path) -> None:
    for name in _names(folder):
        with contextlib.suppress(EdgeEmoError):
            if load_artifact(folder / name, Trust(allow_writable=True)).version == loaded.version:
                where = folder / name
                break
    else:
        return
    raise EdgeEmoError(f"{loaded.path}: is installed as {where}; `edgeemo-run rollback` or `list` may be what you want")


def _refuse_older(members: Members, folder: Path) -> None:
    """A signed artifact may not take the place of one that was signed after it: that is what rollback is for."""
    serving = linked(folder, CURRENT)
    if members.signature is None or serving is None or (signed := folder_signature(folder / serving)) is None:
        return
    new = parse_signature(members.signature, f"the signature of {members.path}")
    if new.sequence < signed.sequence:
        raise EdgeEmoError(
            f"{members.path}: was signed with sequence {new.sequence}, before {serving} ({signed.sequence}); "
            "`edgeemo-run rollback` goes back on purpose"
        )


def _unpack(members: Members, folder: Path, name: str) -> str:
    """Writes the members to a folder of their own and renames that to ``name``, or ``name``-2, -3 where there is one."""
    incoming = Path(tempfile.mkdtemp(prefix=INCOMING, dir=folder))
    try:
        files: dict[str, bytes | memoryview] = {LIBRARY: members.library, MANIFEST: members.manifest}
        files[WEIGHTS] = members.weights.data
        if members.signature is not None:
            files[FOLDER_SIGNATURE] = members.signature
        for file, data in files.items():
            with (incoming / file).open("wb") as out:
                out.write(data)
                os.fchmod(out.fileno(), 0o644)
                os.fsync(out.fileno())
        incoming.chmod(0o755)
        _sync(incoming)
        wanted, number = name, 1
        while (folder / wanted).exists() or (folder / wanted).is_symlink():
            number += 1
            wanted = f"{name}-{number}"
        incoming.rename(folder / wanted)
    except BaseException:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    _sync(folder)
    return wanted


def _make_current(folder: Path, name: str) -> None:
    old = linked(folder, CURRENT)
    if old is not None:
        _link(folder / PENDING, old)
    _link(folder / CURRENT, name)
    _settle(folder)


def _settle(folder: Path) -> None:
    """Brings a change to its end that was begun: by us, or by one who was killed."""
    pending = folder / PENDING
    if not pending.is_symlink():
        return
    if _target(pending) in (None, _target(folder / CURRENT)):
        pending.unlink()
    else:
        pending.replace(folder / PREVIOUS)
        _sync(folder)


def _link(link: Path, name: str) -> None:
    """Points ``link`` at ``name`` in one rename."""
    new = link.with_name(f".{link.name.lstrip('.')}-{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(name)
    new.replace(link)
    _sync(link.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Makes two names change places in one system call; False where the C library or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    failed = rename(AT_WORKING_FOLDER, os.fsencode(one), AT_WORKING_FOLDER, os.fsencode(other), EXCHANGE)
    if not failed:
        _sync(one.parent)
    return not failed


def _sweep(folder: Path) -> None:
    """Removes what a killed installation left behind; with the lock held nobody else's is on its way."""
    for left in folder.glob(f"{INCOMING}*"):
        shutil.rmtree(left, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(folder: Path, shared: bool = False) -> Iterator[None]:
    """Waits until nobody else changes the folder. The kernel lets go of the lock of a process that is killed."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EdgeEmoError(f"{error.filename or folder}: {error.strerror}") from error
