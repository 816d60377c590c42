"""Artifacts: one archive of manifest, library and weights, every part checked before anything of it runs.

An artifact is a program: whoever loads one runs its code. The checks here find damage and nonsense; that it comes from somebody
you trust only a signature says (trust.py). docs/artifact.md describes the format; edgeemo/compile/codegen/package.py writes it.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.machine import extensions, way_out
from edgeemo_runtime.manifest import LIBRARY, WEIGHTS, parse_manifest
from edgeemo_runtime.members import Members, read_members
from edgeemo_runtime.trust import ANYONE, Trust


@dataclass
class Artifact:
    """An artifact in memory. ``version`` is of all its bytes: what tells two models apart in counters and logs."""

    path: Path
    manifest: dict[str, Any]
    version: str
    library: bytes
    weights: np.ndarray[Any, np.dtype[np.uint8]]

    def load_step(self) -> Any:
        """The compiled step as a callable of tvm_ffi tensors. Raises EdgeEmoError if the library does not load."""
        return self.load_function(self.manifest["step"]["function"])

    def load_function(self, function: str) -> Any:
        """A function of the library by its name. Raises EdgeEmoError if there is none, or the library does not load."""
        key = self.manifest["files"][LIBRARY]
        if key not in _libraries:
            _libraries[key] = self._open_library()
        try:
            return _libraries[key][function]
        except AttributeError as error:
            raise EdgeEmoError(f"{self.path}: its library has no function {function}; compile it again") from error

    def _open_library(self) -> Any:
        """Maps the library from a memory file, which nobody else can change: no room for temporary files is needed."""
        import tvm_ffi

        handle = os.memfd_create(LIBRARY, os.MFD_CLOEXEC)
        try:
            with open(handle, "wb", closefd=False) as file:
                file.write(self.library)
            load = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")
            # The handle stays open with the library: the loader knows it by this name, which no other may get.
            return load(f"/proc/self/fd/{handle}", "so")
        except (RuntimeError, AttributeError, OSError) as error:
            os.close(handle)
            raise EdgeEmoError(f"{self.path}: its library does not load here ({first_line(error)})") from error


# By the library's hash. A library that was opened stays in the process (0.2 MB), so a model that comes back, as after a rollback,
# is not opened again. Its code writes to nothing but what it is given: engines may share it.
_libraries: dict[str, Any] = {}


def load_artifact(path: str | Path, trust: Trust = ANYONE) -> Artifact:
    """An artifact, or the folder that one was unpacked to. Raises EdgeEmoError, one line, if it is missing, cut off, altered, of
    a newer schema, for another machine, not signed as ``trust`` asks, or if others may write it."""
    return check_members(read_members(Path(path)), trust)


def check_members(members: Members, trust: Trust = ANYONE) -> Artifact:
    """The artifact of ``members``, checked whole but for what its code does. Raises as load_artifact does."""
    import hashlib  # late, for single_core.without_openssl

    trust.check(members)
    artifact = unchecked(members)
    _check_machine(members.path, artifact.manifest)
    for name, data in ((LIBRARY, members.library), (WEIGHTS, members.weights.data)):
        if hashlib.sha256(data).hexdigest() != artifact.manifest["files"][name]:
            raise EdgeEmoError(f"{members.path}: {name} is not what was packed (sha256 differs); copy it again")
    return artifact


def unchecked(members: Members) -> Artifact:
    """The artifact of members that were checked elsewhere (probe.py); only its manifest is read again."""
    import hashlib

    manifest = parse_manifest(members.path, members.manifest)
    version = f"{manifest['created']}-{hashlib.sha256(members.manifest).hexdigest()[:8]}"
    return Artifact(members.path, manifest, version, members.library, members.weights)


def _check_machine(path: Path, manifest: dict[str, Any]) -> None:
    target = manifest["target"]
    if target["machine"] != platform.machine():
        raise EdgeEmoError(
            f"{path}: is for {target['machine']} ({target['name']}), this machine is {platform.machine()}; "
            "compile it for this one with --target host"
        )
    if missing := set(target.get("needs", ())) - (extensions() or set()):
        raise EdgeEmoError(f"{path}: is for {target['cpu']}, this machine lacks its {', '.join(sorted(missing))}; {way_out()}")
