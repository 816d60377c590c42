"""Kernels as TVM has them when they are written."""

from __future__ import annotations

import pytest
import tvm

from edgeemo.compile.kernels import gemm
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets.board import load_target


@pytest.mark.parametrize("board", ["host", "aarch64-neon"])
def test_a_value_with_two_uses_is_computed_once(board: str) -> None:
    """TVM puts what is pure in place of its name wherever that is used: sixty times the code, for LLVM to make one of again."""
    target = load_target(board)
    spec = Gemm("f32", 8, 1, 32, 0, 32, 256, 32, bias=True, activation="silu")
    function = gemm.build(spec, target.kernels).with_attr("global_symbol", "kernel")
    lowered = tvm.IRModule({"kernel": function.with_attr("target", target.tvm_target())})
    simpler = tvm.tirx.transform.StmtSimplify()(lowered)
    assert len(simpler.script()) < 1.5 * len(lowered.script())
