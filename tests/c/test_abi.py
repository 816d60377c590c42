"""Exported symbols, sizes and offsets, which programs built with an older header rely on. They stand in runtime/c/abi.txt, which
only ever grows; `python -m tests.c.test_abi` writes it anew."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from edgeemo.compile.codegen.c_tables import tables
from tests.c.building import SOURCE
from tests.c.library import Library

HEADER = SOURCE / "include" / "edgeemo.h"
KNOWN = SOURCE / "abi.txt"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")


def structs() -> dict[str, list[str]]:
    """Members by struct, from the header."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    found = {}
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \w+;", text, flags=re.DOTALL):
        members = []
        for line in filter(None, (part.strip() for part in body.split(";"))):
            called = re.match(r".*\(\*(\w+)\)", line)
            names = [re.search(r"(\w+)(\[\w+\])?$", m.strip()) for m in line.split(",")]
            members += [called[1]] if called else [n[1] for n in names if n]
        found[name] = members
    return found


def enumerators() -> dict[str, str]:
    return dict(re.findall(r"\b(EDGEEMO_\w+) = (\d+)", HEADER.read_text()))


def layout(folder: Path) -> list[str]:
    """Lines of sizes and offsets, as the compiler has them."""
    lines = ["#include <edgeemo.h>", "#include <stdio.h>", "int main(void) {"]
    for name, members in structs().items():
        lines.append(f'  printf("{name} %zu\\n", sizeof({name}));')
        lines += [f'  printf("{name}.{m} %zu\\n", offsetof({name}, {m}));' for m in members]
    lines += [f'  printf("{name} = %d\\n", (int){name});' for name in enumerators()]
    (folder / "layout.c").write_text("\n".join([*lines, "  return 0;", "}", ""]))
    command = ["cc", "-std=c99", "-I", str(HEADER.parent), "-o", str(folder / "layout"), str(folder / "layout.c")]
    subprocess.run(command, check=True)
    return subprocess.run([str(folder / "layout")], check=True, capture_output=True, text=True).stdout.splitlines()


def symbols(library: Library) -> list[str]:
    done = subprocess.run(["nm", "-D", "--defined-only", library.c._name], check=True, capture_output=True, text=True)
    return sorted(line.split()[2] for line in done.stdout.splitlines() if " A " not in line)


def test_symbols_and_layouts_are_those_that_programs_know(library: Library, tmp_path: Path) -> None:
    assert [*symbols(library), *layout(tmp_path)] == KNOWN.read_text().splitlines()


def test_every_struct_begins_with_its_size() -> None:
    assert len(structs()) == 10
    assert all(members[0] == "struct_size" for members in structs().values())


def test_the_header_of_columns_is_python_s() -> None:
    assert (SOURCE / "src" / "tables.h").read_text() == tables(), (
        "python -m edgeemo.compile.codegen.c_tables > runtime/c/src/tables.h"
    )


@pytest.mark.parametrize("compiler", [["cc"], ["python", "-m", "ziglang", "cc"]], ids=["gcc", "clang"])
def test_no_warning(tmp_path: Path, compiler: list[str]) -> None:
    import sys

    command = [sys.executable if c == "python" else c for c in compiler]
    flags = ["-std=c99", "-O1", "-c", *WARNINGS, "-I", str(HEADER.parent), "-o", str(tmp_path / "out.o")]
    for source in ("src/edgeemo.c", "programs/live.c", "examples/one_call.c", "examples/many_calls.c"):
        subprocess.run([*command, *flags, str(SOURCE / source)], check=True)


def test_cplusplus(tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text(
        "#include <edgeemo.hpp>\nint main() { return edgeemo_abi_version() == EDGEEMO_ABI_VERSION; }\n"
    )
    command = ["c++", "-std=c++17", *WARNINGS, "-Wpedantic", "-I", str(HEADER.parent), "-c", "-o", str(tmp_path / "a.o")]
    subprocess.run([*command, str(tmp_path / "a.cpp")], check=True)


def test_the_library_needs_libc_alone(library: Library) -> None:
    done = subprocess.run(["readelf", "-d", library.c._name], check=True, capture_output=True, text=True)
    assert set(re.findall(r"NEEDED.*\[(\w+)", done.stdout)) <= {"libc", "libm", "ld"}
    assert "libedgeemo.so.0]" in done.stdout


if __name__ == "__main__":
    import tempfile

    from tests.c.building import build

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        KNOWN.write_text("\n".join([*symbols(Library(build(folder))), *layout(folder)]) + "\n")
