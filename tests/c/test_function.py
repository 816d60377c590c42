"""Models that are no streams through the C library: the arrays of Python's Function to the bit; and as libraries of their own."""

from __future__ import annotations

import subprocess
from ctypes import byref, c_void_p
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeemo_runtime.function import Function
from onnx import TensorProto, helper, numpy_helper

from edgeemo.compile.codegen.c_library import c_name, header, renamed, write_library
from edgeemo.compile.compiler import Compiled, compile_onnx
from edgeemo.targets.board import load_target
from tests.c.library import Library, LibraryError, Tensor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """x (batch, 8), of convolution with padding and a product: y (batch, 5) and k, an integer of it."""
    path = tmp_path_factory.mktemp("small") / "m.onnx"
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((1, 1, 3)).astype(np.float32), "v": rng.standard_normal((8, 5)).astype(np.float32)}
    shape = numpy_helper.from_array(np.array([-1, 1, 8], np.int64), "shape")
    back = numpy_helper.from_array(np.array([-1, 8], np.int64), "back")
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["b"], pads=[1, 1]),
        helper.make_node("Reshape", ["b", "back"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["y"]),
        helper.make_node("Cast", ["y"], ["k.int"], to=TensorProto.INT32),
    ]
    info = helper.make_tensor_value_info
    outputs = [info("y", TensorProto.FLOAT, ["batch", 5]), info("k.int", TensorProto.INT32, ["batch", 5])]
    initial = [shape, back, *(numpy_helper.from_array(v, n) for n, v in weights.items())]
    graph = helper.make_graph(nodes, "small", [info("x", TensorProto.FLOAT, ["batch", 8])], outputs, initial)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return compile_onnx(path, load_target("host"))


@pytest.fixture(scope="module")
def artifact(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "m.edgeemo"
    path.write_bytes(compiled.archive)
    return path


def test_the_same_to_the_bit(library: Library, artifact: Path) -> None:
    model, python = library.load(artifact), Function(artifact)
    info, tensor, function = library.info(model), Tensor(), c_void_p()
    assert (info.is_stream, info.input_count, info.output_count) == (0, 1, 2)
    library.call("model_get_tensor", model, 1, 1, byref(tensor))
    assert (tensor.name, tensor.dtype, tensor.size, tensor.dims, tensor.shape[0]) == (b"k.int", 5, 20, 1, 5)
    library.call("function_create", model, 16, byref(function))
    for batch in (1, 3, 16):
        x = np.random.default_rng(batch).standard_normal((batch, 8)).astype(np.float32)
        y, k = np.empty((batch, 5), np.float32), np.empty((batch, 5), np.int32)
        inputs, outputs = (c_void_p * 1)(x.ctypes.data), (c_void_p * 2)(y.ctypes.data, k.ctypes.data)
        library.call("function_run", function, batch, inputs, outputs)
        expected = python.run({"x": x})
        np.testing.assert_array_equal(y, expected["y"])
        np.testing.assert_array_equal(k, expected["k.int"])
    with pytest.raises(LibraryError, match="INVALID: the batch must be 1 to 16"):
        library.call("function_run", function, 17, inputs, outputs)
    with pytest.raises(LibraryError, match="INVALID: edgeemo_function_run: x is NULL"):
        library.call("function_run", function, 1, (c_void_p * 1)(None), outputs)
    with pytest.raises(LibraryError, match=r"UNFIT: .*no stream contract"):
        library.call("engine_create", model, None, byref(c_void_p()))
    library.c.edgeemo_function_destroy(function)
    library.release(model)


def test_structs_by_the_tensors_names(compiled: Compiled) -> None:
    text = header("small", compiled.manifest)
    assert "const float *x; /* 8 */" in text and "int32_t *k_int; /* 5 */" in text
    assert c_name("1.a-b") == "_1_a_b"


def test_symbols_get_other_names(compiled: Compiled, tmp_path: Path) -> None:
    made = renamed(compiled.objects, {"__tvm_ffi_step": "other"})
    (tmp_path / "a.o").write_bytes(made)
    listed = subprocess.run(["nm", str(tmp_path / "a.o")], check=True, capture_output=True, text=True).stdout.split()
    assert "other" in listed and "__tvm_ffi_step" not in listed


def test_a_static_library_of_it_builds_and_runs(compiled: Compiled, artifact: Path, tmp_path: Path) -> None:
    """By the two commands of docs/c-api.md."""
    import platform

    folder = tmp_path / "small"
    write_library("static", "small", platform.machine(), "gnu", compiled, folder)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-Iinclude"]
    subprocess.run(["cc", *flags, "example.c", "-Llib", "-lsmall", "-lm", "-o", "example"], cwd=folder, check=True)
    done = subprocess.run([str(folder / "example")], check=True, capture_output=True, text=True)
    expected = Function(artifact).run({"x": np.zeros((1, 8), np.float32)})["y"][0, 0]
    assert done.stdout == f"y[0] = {expected:g}\n"
