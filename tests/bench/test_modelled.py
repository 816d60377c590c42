"""Modelled costs: clocks, and which kernel a trace's cycles belong to. The tool itself is not run here."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from edgeemo_runtime.errors import EdgeEmoError
from elftools.elf.elffile import ELFFile

from edgeemo.bench import modelled
from edgeemo.compile.compiler import compile_onnx
from edgeemo.targets.board import load_target
from tests.graphs import compiled, residual_block

MAPPED_AT = 0x7F00_0000_0000


def test_streams_per_core() -> None:
    assert modelled.streams_per_core(1.6e6, 1500) == 150
    assert modelled.streams_per_core(1.6e6, modelled.clock_mhz("pi5")) == 240
    with pytest.raises(EdgeEmoError, match="host: its file says no clock"):
        modelled.clock_mhz("host")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aarch64-neon", "pi5"])
@pytest.mark.parametrize("file", ["/memfd:step.so (deleted)", "/tmp/step.so", "/tmp/step.so (deleted)"])
def test_cycles_go_to_the_kernel_whose_code_was_run(tmp_path: Path, name: str, file: str) -> None:
    """A trace as a72cost writes it: 30 cycles in a kernel's code, 10 in libc, 60 outside of what is mapped."""
    compiled(residual_block(), tmp_path)
    (tmp_path / "m.edgeemo").write_bytes(compile_onnx(tmp_path / "m.onnx", load_target(name)).archive)
    with zipfile.ZipFile(tmp_path / "m.edgeemo") as archive, Path(archive.extract("step.so", tmp_path)).open("rb") as library:
        elf = ELFFile(library)
        symbol = next(s for s in elf.get_section_by_name(".symtab").iter_symbols() if s.name.startswith("kernel_"))
        code = next(s for s in elf.iter_segments("PT_LOAD") if s["p_flags"] & 1)
    first = MAPPED_AT + symbol["st_value"] - code["p_vaddr"] + code["p_offset"] % 4096
    trace = tmp_path / "cost.sim"
    trace.write_text(
        f"M {MAPPED_AT:x}-{MAPPED_AT + 0x100000:x} r-xp {code['p_offset'] // 4096 * 4096:08x} 00:01 1 {file}\n"
        "M 1000-2000 r-xp 00000000 00:01 1 /usr/lib/libc.so.6\n"
        f"B 0 {first:x} 1 1 0 30 d503201f\nB 0 1800 1 1 0 10 d503201f\nB 0 99999999 1 1 0 60 d503201f\n"
    )
    kernel = symbol.name.removeprefix("kernel_")
    assert modelled._kernels(trace, tmp_path / "m.edgeemo") == {"?": 0.6, kernel: 0.3, "libc.so.6": 0.1}


def test_what_is_fused_many_times_over_is_named_once() -> None:
    def named(kernel: str) -> str:
        return modelled.REPEATED.sub(r"\1", kernel)

    assert named("fused_strided_slice_strided_slice13_multiply1_add") == "fused_strided_slice_multiply1_add"
    assert named("gemm_s8_rows3_k256_n256") == "gemm_s8_rows3_k256_n256"


AT_THE_END = """
import os, runpy, sys
leave = os._exit
def last(code):
    print("memfd:step.so" in open("/proc/self/maps").read(), flush=True)
    leave(code)
os._exit = last
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_library_is_still_mapped_when_the_measured_process_ends(tmp_path: Path) -> None:
    """The tool reads the map at the process's end; a library unmapped by then leaves its cycles to nobody ("?")."""
    compiled(residual_block(), tmp_path)
    command = [sys.executable, "-c", AT_THE_END, str(modelled.SCRIPT), str(tmp_path / "host.edgeemo"), "2", "1", "step", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
