"""Operators that no kernel of ours covers: TVM's stock lowering, fused where it is elementwise, without calls to libm.

Afterwards ``main`` holds kernel calls, stock PrimFuncs and reshapes (which cost nothing: compile/step.py aliases them).
"""

from __future__ import annotations

from typing import Any

import tvm
from edgeemo_runtime.errors import EdgeEmoError
from tvm import relax, s_tir, tirx

from edgeemo.compile.passes import lower_math
from edgeemo.compile.passes.graph import MAIN, Graph

LANES = 4
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
            mod.update_func(gv, _schedule(func))
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


def _schedule(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Elementwise intermediates of a fused function are computed where they are used, not stored in between; what is left goes by
    vectors along the last axis. LLVM would not do that by itself: a concatenation's branches keep its loops scalar."""
    schedule = s_tir.Schedule(func)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        try:
            schedule.compute_inline(block)
        except s_tir.schedule.ScheduleError:
            _vectorize(schedule, block)  # a reduction, or an output
    return schedule.mod["main"]


def _vectorize(schedule: s_tir.Schedule, block: Any) -> None:
    loops = schedule.get_loops(block)
    extent = schedule.get(loops[-1]).extent if loops else None
    iterators = schedule.get(block).iter_vars
    body = str(schedule.get(block).body)
    if any(f"T.{name.removeprefix('tirx.')}(" in body for name in lower_math.LOWERED):
        # Those become polynomials of scalars, which LLVM does vectorize.
        return
    if not isinstance(extent, tirx.IntImm) or int(extent) % LANES or any(i.iter_type != tirx.IterVar.DataPar for i in iterators):
        return
    _, lanes = schedule.split(loops[-1], [None, LANES])
    schedule.vectorize(lanes)
