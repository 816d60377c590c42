"""Operators that no kernel of ours covers: TVM's stock lowering, fused where it is elementwise, without calls to libm.

Afterwards ``main`` holds kernel calls, stock PrimFuncs and reshapes (which cost nothing: compile/step.py aliases them).
"""

from __future__ import annotations

import tvm
from edgeemo_runtime.errors import EdgeEmoError
from tvm import relax, s_tir, tirx

from edgeemo.compile.passes import lower_math
from edgeemo.compile.passes.graph import MAIN, Graph

RESHAPES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")


def run(mod: tvm.IRModule) -> tvm.IRModule:
    """Raises EdgeEmoError naming an operator that TVM cannot lower."""
    lower_math.register()
    mod = _one_kind_of_reshape(mod)
    mod = relax.transform.FoldConstant()(mod)
    mod = relax.transform.EliminateCommonSubexpr()(mod)
    mod = relax.transform.LegalizeOps(skip_ops=["relax.reshape"])(mod)
    _refuse_unlowered(mod)
    mod = relax.transform.AnnotateTIROpPattern()(mod)
    mod = relax.transform.FoldConstant()(mod)
    mod = relax.transform.FuseOps(2)(mod)
    mod = relax.transform.FuseTIR()(mod)
    mod = relax.transform.DeadCodeElimination([MAIN])(mod)
    for gv, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc):
            mod.update_func(gv, _inline(func))
    return mod


def _one_kind_of_reshape(mod: tvm.IRModule) -> tvm.IRModule:
    graph = Graph(mod)
    for binding in graph.bindings:
        if graph.op(binding.var) in RESHAPES[1:]:
            graph.rebind(binding.var, relax.op.reshape(graph.args(binding.var)[0], binding.var.ty.shape))
    return graph.finish() if graph.changed else mod


def _refuse_unlowered(mod: tvm.IRModule) -> None:
    graph = Graph(mod)
    for binding in graph.bindings:
        op = graph.op(binding.var)
        if op and op not in ("relax.call_tir", "relax.call_dps_packed", "relax.reshape"):
            raise EdgeEmoError(
                f"operator {op.removeprefix('relax.')} (for {binding.var.name}) has no lowering: "
                "neither an int8 or float kernel of edgeemo nor a stock one of TVM covers it"
            )


def _inline(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Elementwise intermediates of a fused function are computed where they are used, not stored in between."""
    schedule = s_tir.Schedule(func)
    root = schedule.get_sblock("root")
    for block in schedule.get_child_blocks(root):
        try:
            schedule.compute_inline(block)
        except s_tir.schedule.ScheduleError:
            continue  # a reduction, or an output
    return schedule.mod["main"]
