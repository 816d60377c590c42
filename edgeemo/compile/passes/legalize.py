"""Operators that no kernel of ours covers: TVM's stock lowering, fused where it is elementwise, without calls to libm.

Afterwards ``main`` holds kernel calls, stock PrimFuncs and reshapes (which cost nothing: codegen/step_function.py aliases them).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, prod
from typing import Any

import numpy as np
import tvm
from edgeemo_runtime.errors import EdgeEmoError
from tvm import ir, relax, s_tir, te, tirx, topi
from tvm_ffi.structural import StructuralKey, structural_walk

from edgeemo.compile.codegen import math_intrinsics as lower_math
from edgeemo.compile.codegen import special_values
from edgeemo.compile.ir import MAIN, Graph, static_shape

LANES = 4
UNROLLED = 16  # places at most
MAX_INLINED = 100  # reads in an expression; beyond that a value is stored
SMALLEST_DIVISOR = 1e-30  # the reciprocal of less may be infinite
RESHAPES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")


def run(mod: tvm.IRModule, infinities: bool = True) -> tvm.IRModule:
    """``infinities``: whether values may be infinite or NaN; those of a streaming model are not, and its code stays what was
    measured.

    Raises EdgeEmoError naming an operator that TVM cannot lower."""
    lower_math.register()
    mod = _fold_constants(_one_kind_of_reshape(mod))
    mod = relax.transform.EliminateCommonSubexpr()(mod)
    mod = relax.transform.LegalizeOps(_lowerings(mod), skip_ops=["relax.reshape"])(mod)
    _refuse_unlowered(mod)
    mod = relax.transform.AnnotateTIROpPattern()(mod)
    mod = _fold_constants(mod)
    mod = relax.transform.FuseOps(2)(mod)
    mod = relax.transform.FuseTIR()(mod)
    mod = relax.transform.DeadCodeElimination([MAIN])(mod)
    mod = _slices_early(mod)
    for gv, func in list(mod.functions.items()):
        if isinstance(func, tirx.PrimFunc):
            scheduled = _schedule(func)
            mod.update_func(gv, special_values.keep(scheduled) if infinities else scheduled)
    return mod


def _fold_constants(mod: tvm.IRModule) -> tvm.IRModule:
    """TVM's FoldConstant, where any operator depends on constants alone: it lowers all of them to find out, which takes half the
    compilation of a network unrolled over time."""
    graph = Graph(mod)
    some = any(graph.op(b.var) and not relax.analysis.free_vars(b.value) for b in graph.bindings)
    return relax.transform.FoldConstant()(mod) if some else mod


def _one_kind_of_reshape(mod: tvm.IRModule) -> tvm.IRModule:
    graph = Graph(mod)
    for binding in graph.bindings:
        # A dimension put in for a concatenation alone fuses with it, and so does the slice it is put into; a reshape would not.
        user = graph.only_user(binding.var)
        if graph.is_op(binding.var, "expand_dims") and user is not None and graph.is_op(user, "concat"):
            continue
        if graph.op(binding.var) in RESHAPES[1:]:
            graph.rebind(binding.var, relax.op.reshape(graph.args(binding.var)[0], binding.var.ty.shape))
    return graph.finish() if graph.changed else mod


# Division by a constant, that of a mean included, is multiplication by its reciprocal: the core's one divider takes a vector
# eight cycles and more.
def _divide(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    dividend, divisor = call.args
    value = divisor.value.numpy() if isinstance(divisor, tvm.ir.GenericConst) else None
    if value is None or value.size != 1 or value.dtype != np.float32 or not SMALLEST_DIVISOR <= abs(value.item()) < inf:
        return builder.call_te(topi.divide, dividend, divisor)
    return builder.call_te(topi.multiply, dividend, relax.const(1 / value))


def _mean(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    axes, keep = call.attrs.axis, call.attrs.keepdims

    def mean(x: te.Tensor) -> te.Tensor:
        extents = [x.shape[int(axis)] for axis in (range(len(x.shape)) if axes is None else axes)]
        total = topi.sum(x, axes, keep)
        if x.dtype == "float32" and all(isinstance(e, tirx.IntImm) for e in extents):
            return topi.multiply(total, tirx.const(1.0 / prod(int(e) for e in extents), "float32"))
        return topi.divide(total, prod(extents))

    return builder.call_te(mean, call.args[0], primfunc_name_hint="mean")


RECIPROCALS = {"relax.divide": _divide, "relax.mean": _mean}
Lowering = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def _lowerings(mod: tvm.IRModule) -> dict[str, Lowering]:
    """TVM's lowering of every operator in a module, or ours; of equal ones once: of a network unrolled over time that is most of
    a compilation."""
    graph = Graph(mod)
    found = {}
    for name in {graph.op(b.var) for b in graph.bindings} - {""}:
        lower = RECIPROCALS.get(name) or ir.Op.get(name).get_attr("FLegalize")
        if lower is not None:
            found[name] = _once(lower)
    return found


def _once(lower: Lowering) -> Lowering:
    """``lower``, but that a call with the attributes, types and constants of one before becomes a call of the same PrimFunc."""
    made: dict[tuple[Any, ...], relax.Call] = {}

    def lowered(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        constants = [a.value.numpy() for a in call.args if isinstance(a, ir.GenericConst)]
        if any(c.size > 1 for c in constants):
            return lower(builder, call)
        tensors = [a for a in call.args if isinstance(a, relax.Var)]
        types = (str(a.ty if isinstance(a, (relax.Var, ir.GenericConst)) else a) for a in call.args)
        key = (StructuralKey(call.attrs), *types, *(c.tobytes() for c in constants))  # a scalar becomes part of the PrimFunc
        if (known := made.get(key)) is not None:
            left = iter(tensors)
            fields = [next(left) if isinstance(f, relax.Var) else f for f in known.args[1].fields]
            return relax.Call(known.op, [known.args[0], relax.Tuple(fields), *known.args[2:]], known.attrs, known.ty_args)
        result = lower(builder, call)
        if isinstance(result, relax.Call) and len(result.args) > 1 and isinstance(result.args[1], relax.Tuple):
            taken = [f for f in result.args[1].fields if isinstance(f, relax.Var)]
            if len(taken) == len(tensors) and all(f.same_as(t) for f, t in zip(taken, tensors, strict=True)):
                made[key] = result
        return result

    return lowered


def _refuse_unlowered(mod: tvm.IRModule) -> None:
    graph = Graph(mod)
    for binding in graph.bindings:
        op = graph.op(binding.var)
        if op and op not in ("relax.call_tir", "relax.call_dps_packed", "relax.reshape"):
            raise EdgeEmoError(
                f"operator {op.removeprefix('relax.')} (for {binding.var.name}) has no lowering: "
                "neither an int8 or float kernel of edgeemo nor a stock one of TVM covers it"
            )


def _slices_early(mod: tvm.IRModule) -> tvm.IRModule:
    """Moves what is made smaller from one value (a slice that is the next state, as a rule) right behind it: that value is in
    the cache then, and its room is free the sooner."""
    graph = Graph(mod)
    place = graph.place

    def order(binding: relax.Binding) -> tuple[int, int]:
        var, at = binding.var, place[binding.var]
        if not graph.is_op(var, "call_tir") or not isinstance(var.ty, relax.TensorType):
            return at, 0
        source, *others = graph.value[var].args[1].fields
        if others or source not in place or _size(var) >= _size(source):
            return at, 0
        return place[source], at

    graph.bindings.sort(key=order)
    return graph.finish()


def _size(value: relax.Expr) -> int:
    """Numbers in one item of the batch."""
    return prod(extent or 1 for extent in static_shape(value))


def _schedule(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Elementwise intermediates of a fused function are computed where they are used, not stored in between; what is left goes by
    vectors along the last axis. LLVM would not do that by itself: a concatenation's branches keep its loops scalar."""
    schedule = s_tir.Schedule(func)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        if _inlined_size(schedule, block) > MAX_INLINED:
            _vectorize(schedule, block)
            continue
        try:
            schedule.compute_inline(block)
        except s_tir.schedule.ScheduleError:
            _vectorize(schedule, block)  # a reduction, or an output
    return schedule.mod["main"]


def _inlined_size(schedule: s_tir.Schedule, block: Any) -> int:
    """Reads in the longest expression that ``block`` would be part of: values read twice by others that are (a remainder,
    a chain of choices) make code of exponential size."""
    own = _reads(schedule, block)
    written = schedule.get(block).writes[0].source
    longest = 0
    for reader in schedule.get_consumers(block):
        reads = _reads(schedule, reader)
        times = sum(read.source.same_as(written) for read in reads)
        longest = max(longest, len(reads) + times * (len(own) - 1))
    return longest


def _reads(schedule: s_tir.Schedule, block: Any) -> list[Any]:
    found: list[Any] = []
    structural_walk(schedule.get(block).body, (ir.TensorLoad, found.append))
    return found


def _vectorize(schedule: s_tir.Schedule, block: Any) -> None:
    loops = schedule.get_loops(block)
    iterators = [i.iter_type for i in schedule.get(block).iter_vars]
    body = str(schedule.get(block).body)
    if len(loops) != len(iterators) or not set(iterators) <= {tirx.IterVar.DataPar, tirx.IterVar.CommReduce}:
        return
    reduced = [loop for loop, i in zip(loops, iterators, strict=True) if i == tirx.IterVar.CommReduce]
    if reduced:
        _vectorize_reduction(schedule, block, [loop for loop in loops if loop not in reduced], reduced)
        return
    if not loops or not _whole_vectors(schedule, loops[-1]):
        return
    # Polynomials wait for their own results: two vectors at a time fill the gaps.
    polynomial = any(f"T.{name.removeprefix('tirx.')}(" in body for name in lower_math.LOWERED)
    _by_lanes(schedule, loops[-1], 2 * LANES if polynomial and _whole_vectors(schedule, loops[-1], 2 * LANES) else LANES)
    if "if_then_else" in body and _places(schedule, loops[1:-1]) <= UNROLLED:
        for loop in loops[1:-1]:  # a concatenation's parts then need no comparisons
            schedule.unroll(loop)


def _vectorize_reduction(schedule: s_tir.Schedule, block: Any, kept: list[Any], reduced: list[Any]) -> None:
    """A sum or an extreme along what lies side by side as four of them, any other reduction along the last axis that is kept."""
    if _reads_side_by_side(schedule.get(block)):
        body = str(schedule.get(block).body)
        # Left as one chain of selections, a maximum of some hundred numbers takes LLVM minutes.
        if any(sign in body for sign in (" + ", "T.max(", "T.min(")) and _whole_vectors(schedule, reduced[-1]):
            _, lanes = schedule.split(reduced[-1], [None, LANES])
            by_lane = schedule.rfactor(lanes, len(kept))
            loops = schedule.get_loops(by_lane)
            schedule.vectorize(loops[-1])
            schedule.decompose_reduction(by_lane, loops[len(kept)])
    elif len(kept) > 1 and _whole_vectors(schedule, kept[-1]):
        in_registers = _places(schedule, reduced) <= UNROLLED
        vectors, lanes = schedule.split(kept[-1], [None, LANES])
        schedule.reorder(*([vectors, *reduced] if in_registers else [*reduced, vectors]), lanes)
        schedule.vectorize(lanes)
        schedule.decompose_reduction(block, reduced[0])
        if in_registers:
            for loop in reduced:
                schedule.unroll(loop)


def _reads_side_by_side(block: Any) -> bool:
    """Whether the last axis of what a reduction reads is one that it reduces."""
    reduced = [i.var for i in block.iter_vars if i.iter_type == tirx.IterVar.CommReduce]
    lasts = [region.region[-1].min for region in block.reads if region.region]  # a single number has no axis
    return any(last.same_as(var) for last in lasts for var in reduced)


def _places(schedule: s_tir.Schedule, loops: list[Any]) -> float:
    """How often the innermost of these loops is gone through; infinite where that is known at run time only."""
    extents = [schedule.get(loop).extent for loop in loops]
    return prod(int(e) if isinstance(e, tirx.IntImm) else inf for e in extents)


def _whole_vectors(schedule: s_tir.Schedule, loop: Any, lanes: int = LANES) -> bool:
    extent = schedule.get(loop).extent
    return isinstance(extent, tirx.IntImm) and int(extent) % lanes == 0


def _by_lanes(schedule: s_tir.Schedule, loop: Any, lanes: int) -> None:
    _, lane = schedule.split(loop, [None, lanes])
    schedule.vectorize(lane)
