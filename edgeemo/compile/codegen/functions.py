"""Builds a module whose kernels stay functions of their own, by the TVM passes that a CPU needs.

TVM's default gives LLVM private functions, each called once, and LLVM makes one function of them all: of a large network's that
takes up to twice as long as to compile them one by one. Most passes before that look for what only a GPU's code has.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx

from edgeemo.compile.codegen.link import KERNEL
from edgeemo.targets.board import BoardTarget

# LLVM works small kernels (copies, padding) into the step otherwise, unrolls them there, and schedules the long blocks that come
# of it in a time that grows with their square: of text direction's INT8 file two fifths of a compilation, for code that takes 1 %
# more cycles (modelled).
NOT_INLINED = "-inline-instr-cost:int=1000"


def _passes() -> list[Any]:
    """As tvm.s_tir.pipeline has them."""
    return [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),  # without these two a concatenation of roots takes half as many cycles again
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
        s_tir.transform.LoopPartition(),
        tirx.transform.VectorizeLoop(),
        tirx.transform.StorageRewrite(),
        tirx.transform.UnrollLoop(),
        s_tir.transform.RenormalizeSplitPattern(),
        tirx.transform.StmtSimplify(),  # without it silero-vad in INT8 takes 1.4 times the cycles (modelled)
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        tirx.transform.SplitHostDevice(),
        tirx.transform.MakePackedAPI(),
        tirx.transform.LowerTVMBuiltin(),
        tirx.transform.LowerIntrin(),
    ]


def _visible_to_the_linker(mod: tvm.IRModule) -> tvm.IRModule:
    """A name that leaves the object file keeps a function from being private; codegen/link.py keeps it in the library. Behind
    MakePackedAPI, which would make the arguments of such a function boxed ones."""
    made = {}
    for var, function in mod.functions.items():
        named = "global_symbol" in function.attrs
        made[var] = function if named else function.with_attr("global_symbol", f"{KERNEL}{var.name_hint}")
    return tvm.IRModule(made)


def build_functions(mod: tvm.IRModule, board: BoardTarget) -> tvm.runtime.Module:
    """The module that ``tvm.tirx.build`` makes, with functions of its kernels. Raises what TVM raises."""
    target = board.tvm_target([NOT_INLINED])
    target = target.with_host(target)
    lowered = tvm.transform.Sequential([tirx.transform.BindTarget(target), *_passes()])(mod)
    return tvm.get_global_func("target.build.llvm")(_visible_to_the_linker(lowered), target)
