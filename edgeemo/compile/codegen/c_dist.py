"""The C library's packages for `make dist`: a tarball and a Debian package for aarch64 and x86-64 each, built by ziglang for
glibc from 2.17 on.

python -m edgeemo.compile.codegen.c_dist dist
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.compile.codegen.c_library import SOURCES

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


def version() -> str:
    header = (SOURCES[0] / "include" / "edgeemo.h").read_text()
    found = re.search(r'#define EDGEEMO_VERSION "(.+)"', header)
    assert found is not None
    return found[1]


def _install(machine: str, scratch: Path) -> Path:
    """The tree of `make install` with PREFIX=/usr."""
    tree, libdir = scratch / "tree", f"/usr/lib/{machine}-linux-gnu"
    zig = f"{sys.executable} -m ziglang"
    values = {
        "OUT": scratch / "build", "DESTDIR": tree, "PREFIX": "/usr", "LIBDIR": libdir, "AR": f"{zig} ar", "CFLAGS": "-O2",
        "CC": f"{zig} cc -target {machine}-linux-gnu.2.17", "LDFLAGS": "-s",
    }  # fmt: skip
    command = ["make", "-s", "-C", str(SOURCES[0]), "install", *(f"{name}={value}" for name, value in values.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgeEmoError(f"building libedgeemo for {machine} failed: {done.stderr.strip()[:500]}")
    documents = tree / "usr/share/doc/libedgeemo"
    documents.mkdir(parents=True)
    for file in (SOURCES[0] / "README.md", SOURCES[0].parent / "LICENSE", SOURCES[0] / "vendor" / "monocypher-LICENCE.txt"):
        shutil.copy(file, documents)
    return tree


def _owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mtime = EPOCH
    return info


def _tar(tree: Path, prefix: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        for path in sorted(tree.rglob("*")):
            archive.add(path, f"{prefix}/{path.relative_to(tree)}", recursive=False, filter=_owned)
    return out.getvalue()


def _deb(tree: Path, architecture: str, scratch: Path) -> bytes:
    """A Debian binary package: an ar archive of its format's version, control.tar.xz and data.tar.xz."""
    size = sum(p.stat().st_size for p in tree.rglob("*") if p.is_file() and not p.is_symlink()) // 1024
    control = scratch / "control"
    control.mkdir()
    (control / "control").write_text(
        f"Package: libedgeemo-dev\nVersion: {version()}\nArchitecture: {architecture}\nSection: libdevel\nPriority: optional\n"
        f"Maintainer: edgeemo\nInstalled-Size: {size}\nDepends: libc6 (>= 2.17)\n"
        "Description: emotion of many telephone calls on one core: libedgeemo, headers, static library\n"
    )
    (control / "triggers").write_text("activate-noawait ldconfig\n")
    members = {"debian-binary": b"2.0\n", "control.tar.xz": _tar(control, "."), "data.tar.xz": _tar(tree, ".")}
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{EPOCH:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def main(folder: Path) -> None:
    """Writes the packages to ``folder``. Raises EdgeEmoError if a build fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for machine, architecture in MACHINES.items():
        with tempfile.TemporaryDirectory(prefix="edgeemo-") as made:
            scratch = Path(made)
            tree = _install(machine, scratch)
            name = f"libedgeemo-{version()}-linux-{machine}"
            (folder / f"{name}.tar.xz").write_bytes(_tar(tree, name))
            (folder / f"libedgeemo-dev_{version()}_{architecture}.deb").write_bytes(_deb(tree, architecture, scratch))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
