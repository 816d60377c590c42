"""Packages of `make dist`: a program is built against each as its user would, and run; here, and on the emulated board."""

from __future__ import annotations

import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from edgeemo.compile.codegen.c_dist import MACHINES, main, version
from tests.aarch64 import board

pytestmark = pytest.mark.slow
PROGRAM = """
#include <edgeemo.h>
#include <stdio.h>
int main(int count, char **names) {
  edgeemo_model *model;
  printf("%s %u\\n", edgeemo_version(), edgeemo_abi_version());
  return count == 2 && edgeemo_model_load(names[1], NULL, &model) != EDGEEMO_OK;
}
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    main(folder)
    return folder


def test_all_are_there(packages: Path) -> None:
    assert sorted(path.name for path in packages.iterdir()) == sorted(
        name
        for machine, architecture in MACHINES.items()
        for name in (f"libedgeemo-{version()}-linux-{machine}.tar.xz", f"libedgeemo-dev_{version()}_{architecture}.deb")
    )


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb: Debian's")
@pytest.mark.parametrize("machine", MACHINES)
def test_debian_package(packages: Path, tmp_path: Path, machine: str) -> None:
    """dpkg reads it; its library needs libc alone, of glibc 2.17, and has its SONAME; everything is root's."""
    deb = packages / f"libedgeemo-dev_{version()}_{MACHINES[machine]}.deb"
    field = ["dpkg-deb", "--field", str(deb)]
    said = subprocess.run(field, check=True, capture_output=True, text=True).stdout
    assert f"Version: {version()}\n" in said and f"Architecture: {MACHINES[machine]}\n" in said
    listed = subprocess.run(["dpkg-deb", "--contents", str(deb)], check=True, capture_output=True, text=True).stdout
    assert all(" root/root " in line for line in listed.splitlines())
    subprocess.run(["dpkg-deb", "--extract", str(deb), str(tmp_path)], check=True)
    library = tmp_path / f"usr/lib/{machine}-linux-gnu/libedgeemo.so"
    dynamic = subprocess.run(["readelf", "-dV", str(library)], check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r"NEEDED.*\[(\w+)", dynamic)) <= {"libc", "libm", "ld"} and "[libedgeemo.so.0]" in dynamic
    assert all(int(minor) <= 17 for minor in re.findall(r"GLIBC_2\.(\d+)", dynamic))
    assert (tmp_path / "usr/share/doc/libedgeemo/monocypher-LICENCE.txt").is_file()


def unpacked(packages: Path, machine: str, folder: Path) -> Path:
    """The tarball's tree."""
    name = f"libedgeemo-{version()}-linux-{machine}"
    with lzma.open(packages / f"{name}.tar.xz") as data, tarfile.open(fileobj=data) as archive:
        archive.extractall(folder, filter="data")
    return folder / name


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config: `make counterparts`")
def test_a_program_by_pkg_config(packages: Path, host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    tree, machine = unpacked(packages, platform.machine(), tmp_path), platform.machine()
    libdir = tree / f"usr/lib/{machine}-linux-gnu"
    environment = {**os.environ, "PKG_CONFIG_PATH": str(libdir / "pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": str(tree)}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "edgeemo"], check=True, capture_output=True, text=True, env=environment
    ).stdout.split()
    (tmp_path / "a.c").write_text(PROGRAM)
    subprocess.run(["cc", "-std=c99", "-o", str(tmp_path / "a"), str(tmp_path / "a.c"), *flags], check=True)
    run = [str(tmp_path / "a"), str(host_artifacts["int8"])]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libdir)}
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{version()} 0\n"), done.stderr


@pytest.mark.qemu
@pytest.mark.skipif(not board.available(), reason=board.REASON)
@pytest.mark.parametrize("kind", ["shared", "static"])
def test_a_program_on_the_board(packages: Path, board_artifact: Path, tmp_path: Path, kind: str) -> None:
    tree = unpacked(packages, "aarch64", tmp_path)
    libdir = tree / "usr/lib/aarch64-linux-gnu"
    (tmp_path / "a.c").write_text(PROGRAM)
    library = ["-L", str(libdir), "-ledgeemo"] if kind == "shared" else [str(libdir / "libedgeemo.a"), "-lm"]
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.36", "-std=c99"]
    command = [*compiler, "-I", str(tree / "usr/include"), "-o", str(tmp_path / "a"), str(tmp_path / "a.c"), *library]
    subprocess.run(command, check=True, capture_output=True)
    run = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", str(board.HOME / "root"), "-E", f"LD_LIBRARY_PATH={libdir}"]
    done = subprocess.run([*run, str(tmp_path / "a"), str(board_artifact)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{version()} 0\n"), done.stderr
