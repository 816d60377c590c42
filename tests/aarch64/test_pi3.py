"""Graphs for a Cortex-A53, on an emulated one: the other targets' answers, by code that LLVM's model of the core has ordered."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeemo.adapt.adapt import adapt
from edgeemo.compile.compiler import compile_onnx
from edgeemo.compile.pipeline import stage
from edgeemo.onnxlib.feeds import made_up
from edgeemo.quantize.recipe import load_recipe
from edgeemo.targets.board import BoardTarget, load_target
from tests.aarch64 import board
from tests.graphs import compiled, graph, quantized, residual_block

pytestmark = [pytest.mark.slow, pytest.mark.qemu]
EMULATED = pytest.mark.skipif(not board.available(), reason=board.REASON)
MCA = next(filter(None, map(shutil.which, ("llvm-mca-19", "llvm-mca-14", "llvm-mca"))), None)
CALL = ["-m", "edgeemo_runtime.ops.cli", "feed"]


def two_products(folder: Path) -> onnx.ModelProto:
    """Two int8 products, 384 and 768 deep, over the full range."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": 0.05 * rng.standard_normal(s).astype(np.float32) for i, s in ((1, (384, 768)), (2, (768, 384)))}
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("MatMul", ["r", "w2"], ["y"])]  # fmt: skip
    model = graph(nodes, {"x": ["n", 4, 384]}, {"y": ["n", 4, 384]}, weights)
    return quantized(adapt(model, "m", {}, {}).model, folder, load_recipe("int8-mse"))


@EMULATED
@pytest.mark.parametrize("make", [two_products, lambda folder: residual_block()], ids=["int8", "float"])
def test_a_cortex_a53_answers_to_the_bit_as_a_pi_4_does_and_runs_its_artifacts(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = make(tmp_path)
    _, function = compiled(model, tmp_path)
    feed = made_up(model, 3, 9)
    np.savez(tmp_path / "in.npz", **feed)  # type: ignore[arg-type]
    got = {}
    for name in ("pi3", "aarch64-neon"):
        (tmp_path / f"{name}.edgeemo").write_bytes(compile_onnx(tmp_path / "m.onnx", load_target(name)).archive)
        out = tmp_path / f"{name}.npz"
        done = board.run(
            [*CALL, str(tmp_path / f"{name}.edgeemo"), str(tmp_path / "in.npz"), "--out", str(out)], cpu="cortex-a53"
        )
        assert done.returncode == 0, done.stderr.decode()
        with np.load(out) as found:
            got[name] = found["y"]
    np.testing.assert_array_equal(got["pi3"], got["aarch64-neon"])
    np.testing.assert_allclose(got["pi3"], function.run(feed)["y"], rtol=1e-4, atol=1e-5)


def cycles_of_the_longest_loop(target: BoardTarget, folder: Path) -> float:
    """llvm-mca's cycles of the block with the most int8 multiplications. It knows issue, pipes and latencies of a Cortex-A53 and
    takes every load for a hit, 128-bit ones for as cheap as others."""
    compile_onnx(folder / "m.onnx", target, folder)
    blocks = re.split(r"^(?:\.LBB\w+:|\t(?:b|cbn?z|tbn?z|ret)\b.*)$", (folder / stage("step.s")).read_text(), flags=re.M)
    kept = [[i for i in re.findall(r"^\t([a-z].*?)(?://.*)?$", b, re.M) if not re.match(r"hint|csdb|bl\b", i)] for b in blocks]
    longest = max(kept, key=lambda b: sum(i.startswith(("smull", "smlal")) for i in b))
    assert sum(i.startswith("sadalp") for i in longest) > 100
    command = [str(MCA), "-mtriple=aarch64", "-mcpu=cortex-a53", "-iterations=10", "-json", "-summary-view"]
    done = subprocess.run(command, input="\n".join(longest), capture_output=True, text=True, check=True)
    cycles: float = json.loads(done.stdout)["CodeRegions"][0]["SummaryView"]["TotalCycles"]
    return cycles / 10


@pytest.mark.skipif(MCA is None, reason="no llvm-mca (apt install llvm)")
def test_llvm_s_order_suits_the_core_better_than_the_written_one(tmp_path: Path) -> None:
    onnx.save(two_products(tmp_path), tmp_path / "m.onnx")
    pi3 = load_target("pi3")
    written = dataclasses.replace(pi3, kernels=dataclasses.replace(pi3.kernels, order="written"))
    (tmp_path / "a").mkdir()
    assert cycles_of_the_longest_loop(pi3, tmp_path) < 0.7 * cycles_of_the_longest_loop(written, tmp_path)
