"""The checks after linking find what they are for."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from edgeemo_runtime.errors import EdgeEmoError
from elftools.elf.elffile import ELFFile
from onnx import helper
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.codegen import verify
from edgeemo.compile.codegen.link import link_shared
from edgeemo.compile.compiler import compile_onnx
from edgeemo.targets.board import load_target
from tests.graphs import graph


def library(folder: Path, expression, features: list[str]) -> Path:  # type: ignore[no-untyped-def]
    """A library for aarch64 that computes ``expression`` of a vector, built with extra CPU features."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("f")
        x, y = (T.arg(n, T.buffer((64,), "float32")) for n in "xy")
        expression(x, y)
    values = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "mattr": ["+neon", *features]}
    built = tvm.tirx.build(tvm.IRModule({tvm.ir.GlobalVar("f"): builder.get()}), target=tvm.target.Target(values))
    built.write_to_file(str(folder / "f.o"), "o")
    link_shared(folder / "f.o", folder / "f.so", load_target("aarch64-neon"))
    return folder / "f.so"


def test_a_call_to_libm_is_named(tmp_path: Path) -> None:
    def angle(x, y) -> None:  # type: ignore[no-untyped-def]
        T.buffer_store(y, T.atan2(x[0], x[1]), [0])

    with pytest.raises(EdgeEmoError, match="atan2f"):
        verify.verify_library(library(tmp_path, angle, []), load_target("aarch64-neon"))


def test_half_precision_arithmetic_is_named(tmp_path: Path) -> None:
    def add_half(x, y) -> None:  # type: ignore[no-untyped-def]
        wide = T.Ramp(0, 1, 8)
        total = T.Cast("float16x8", x[wide]) + T.Cast("float16x8", y[wide])
        T.buffer_store(y, T.Cast("float32x8", total), [wide])

    with pytest.raises(EdgeEmoError, match=r"fadd.*half-precision arithmetic"):
        verify.verify_library(library(tmp_path, add_half, ["+fullfp16"]), load_target("aarch64-neon"))


def test_plain_code_passes(tmp_path: Path) -> None:
    def double(x, y) -> None:  # type: ignore[no-untyped-def]
        T.buffer_store(y, x[T.Ramp(0, 1, 4)] * T.Broadcast(T.float32(2), 4), [T.Ramp(0, 1, 4)])

    verify.verify_library(library(tmp_path, double, []), load_target("aarch64-neon"))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("sdot v0.4s, v1.16b, v2.16b", "dot product"),
        ("ldaddal w0, w1, [x2]", "atomics"),
        ("casal w0, w1, [x2]", "atomics"),
        ("sha256h q0, q1, v2.4s", "SHA"),
        ("fmul h0, h1, h2", "half-precision"),
        ("fmla v0.8h, v1.8h, v2.8h", "half-precision"),
    ],
)
def test_forbidden_patterns_match(text: str, what: str) -> None:
    import re

    hits = [name for name, pattern in load_target("aarch64-neon").forbidden.items() if re.search(pattern, text)]
    assert len(hits) == 1
    assert what in hits[0]


@pytest.mark.parametrize(
    "text",
    ["fcvtl v0.4s, v1.4h", "fcvtn v0.4h, v1.4s", "bfxil w9, w8, #13, #9", "smull v0.8h, v1.8b, v2.8b", "ld1 {v0.8h}, [x0]"],
)
def test_allowed_instructions_do_not_match(text: str) -> None:
    import re

    assert not any(re.search(p, text) for p in load_target("aarch64-neon").forbidden.values())


def test_unknown_target_lists_the_known() -> None:
    with pytest.raises(EdgeEmoError, match=r"there are: aarch64-neon,.* host"):
        load_target("pdp11")


@pytest.mark.slow
def test_no_other_library_sees_the_kernels(tmp_path: Path) -> None:
    """Kernels of a network without a contract are functions, whose names the linker keeps: two artifacts have the same ones."""
    weights = np.ones((16, 16), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Tanh", ["p"], ["y"])]
    model = graph(nodes, {"x": ["batch", 4, 16]}, {"y": ["batch", 4, 16]}, {"w": weights}, opset=20)
    onnx.save(model, tmp_path / "m.onnx")
    with zipfile.ZipFile(io.BytesIO(compile_onnx(tmp_path / "m.onnx", load_target("aarch64-neon")).archive)) as archive:
        library = ELFFile(io.BytesIO(archive.read("step.so")))
    named = [{s.name for s in library.get_section_by_name(table).iter_symbols()} for table in (".symtab", ".dynsym")]
    local, seen = ({n for n in names if "kernel_" in n} for names in named)
    assert local and not seen
