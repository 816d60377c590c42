"""A Relax function as a list of bindings: who produces a variable, who uses it, and replacing what a variable is bound to.

The passes here match chains of operators around one root and replace the root's value; what nothing uses any more is removed
afterwards. That needs no visitor per pass, only this view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import tvm
from tvm import relax

from edgeemo.compile.memory.states import StateBindings, StateLayout
from edgeemo.targets.board import KernelTarget

Var = Any  # relax.Var; TVM ships no stubs
Expr = Any
MAIN = "main"


def static_shape(value: Expr) -> list[int | None]:
    """Dimensions of a tensor-typed expression; None for a symbolic one."""
    return [int(d) if isinstance(d, tvm.tirx.IntImm) else None for d in value.ty.shape]


def rows_per_stream(value: Expr) -> int | None:
    """Product of the dimensions between the batch and the last; None where the batch is not the first dimension, alone, and the
    only one without a size: our kernels go through such tensors stream by stream."""
    shape = static_shape(value)
    if len(shape) < 2 or not isinstance(value.ty.shape[0], tvm.tirx.Var) or None in shape[1:]:
        return None
    return int(np.prod([d or 1 for d in shape[1:-1]]))


class Graph:
    """``main`` of a module. ``rebind`` collects changes; ``finish`` returns the new module."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.func = mod[MAIN]
        self.bindings = [b for block in self.func.body.blocks for b in block.bindings]
        self.value: dict[Var, Expr] = {b.var: b.value for b in self.bindings}
        self.users: dict[Var, list[Var]] = {}
        for b in self.bindings:
            for used in relax.analysis.free_vars(b.value):
                self.users.setdefault(used, []).append(b.var)
        for used in relax.analysis.free_vars(self.func.body.body):
            self.users.setdefault(used, []).append(None)  # the function's own result
        self.changed: dict[Var, list[tuple[Var, Expr]]] = {}
        self.qmax: dict[Var, int] = {}  # magnitude of int8 values that something clips: kept when what made them is replaced

    @cached_property
    def place(self) -> dict[Var, int]:
        """Number of the binding that makes each value, as the graph was when it was first asked."""
        return {b.var: at for at, b in enumerate(self.bindings)}

    # -- constants -------------------------------------------------------------------------------------------------------
    def constant(self, value: Expr) -> np.ndarray | None:
        """The array of a constant, also one that is only reshaped or transposed on its way.

        TVM's FoldConstant would do that too, but would also turn int8 weights under a dequantize back into float32.
        """
        if isinstance(value, tvm.ir.GenericConst):
            return value.value.numpy()
        if isinstance(value, relax.Var) and self.op(value) in ("relax.reshape", "relax.expand_dims", "relax.squeeze"):
            inner = self.constant(self.args(value)[0])
            return None if inner is None else inner.reshape([d or 0 for d in static_shape(value)])
        if self.is_op(value, "permute_dims"):
            inner = self.constant(self.args(value)[0])
            axes = self.attrs(value).axes
            return None if inner is None else np.transpose(inner, None if axes is None else [int(a) for a in axes])
        return None

    def scalar(self, value: Expr) -> float | None:
        """The value of a constant of one element."""
        array = self.constant(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    # -- looking ---------------------------------------------------------------------------------------------------------
    def op(self, var: Var) -> str:
        """Operator that produces ``var``: ``relax.matmul`` and so on, "" for anything else."""
        value = self.value.get(var)
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            return str(value.op.name)
        return ""

    def is_op(self, value: Expr, name: str) -> bool:
        return isinstance(value, relax.Var) and self.op(value) == f"relax.{name}"

    def args(self, var: Var) -> list[Expr]:
        return list(self.value[var].args)

    def attrs(self, var: Var) -> Any:
        return self.value[var].attrs

    def arg(self, value: Expr, name: str, index: int = 0) -> Expr | None:
        """Argument of ``value`` if operator ``name`` produced it, else None."""
        return self.args(value)[index] if self.is_op(value, name) else None

    def only_user(self, var: Var) -> Var | None:
        """The one binding that uses ``var``, or None if there are more or the function returns it."""
        users = self.users.get(var, [])
        return users[0] if len(users) == 1 else None

    def results(self) -> list[Expr]:
        """Results of the function, one entry per result, whether it returns a tuple or a tensor."""
        body = self.func.body.body
        value = self.value.get(body, body)
        return list(value.fields) if isinstance(value, relax.Tuple) else [body]

    # -- changing --------------------------------------------------------------------------------------------------------
    def rebind(self, root: Var, value: Expr, before: list[tuple[Var, Expr]] | None = None) -> None:
        """Binds ``root`` to ``value`` (of the same type), after the new bindings ``before``."""
        self.changed[root] = [*(before or []), (root, value)]
        self.value[root] = value

    def emit(self, before: list[tuple[Var, Expr]], name: str, value: Expr, shape: list[Any], dtype: str) -> Var:
        """A new variable bound to ``value``, added to the bindings ``before`` of a rebind to come."""
        var = new_var(name, shape, dtype)
        self.value[var] = value
        before.append((var, value))
        return var

    def insert(self, after: Var, var: Var, value: Expr, user: Var) -> None:
        """A new binding right behind that of ``after``: the only user of it, and ``user`` the only one of ``var``."""
        at = next(i for i, b in enumerate(self.bindings) if b.var == after)
        self.bindings.insert(at + 1, relax.VarBinding(var, value))
        self.value[var] = value
        self.users[after], self.users[var] = [var], [user]

    def bypass(self, source: Var, user: Var) -> None:
        """``user`` reads ``source`` itself from now on, alone."""
        self.users[source] = [user]

    def calls(self) -> Iterator[tuple[Var, Var, Expr]]:
        """Every call as it is now, rebound ones included: (variable of the original binding, variable, call)."""
        for binding in self.bindings:
            for var, value in self.changed.get(binding.var, [(binding.var, self.value[binding.var])]):
                if isinstance(value, relax.Call):
                    yield binding.var, var, value

    def replace_call(self, root: Var, var: Var, call: Expr) -> None:
        """``var``, one of the bindings that stand for that of ``root`` (calls()), becomes ``call``."""
        self.value[var] = call
        if root in self.changed:
            self.changed[root] = [(v, call if v == var else e) for v, e in self.changed[root]]
        else:
            self.rebind(root, call)

    def finish(self, result: Expr | None = None) -> tvm.IRModule:
        bindings = []
        for b in self.bindings:
            for var, value in self.changed.get(b.var, [(b.var, b.value)]):
                bindings.append(relax.VarBinding(var, value))
        body = self.func.body.body
        if result is not None:
            body = relax.Var("result", relax.TupleType([f.ty for f in result.fields]))
            bindings.append(relax.VarBinding(body, result))
        block = relax.SeqExpr([relax.DataflowBlock(bindings)], body)
        func = relax.Function(list(self.func.params), block, body.ty, True, self.func.attrs)
        mod = tvm.IRModule({gv: f for gv, f in self.mod.functions.items() if gv.name_hint != MAIN})
        mod[MAIN] = func
        mod = relax.transform.Normalize()(mod)
        return relax.transform.DeadCodeElimination([MAIN])(mod)


class KernelTable:
    """Kernels that passes asked for: name in ``call_dps_packed`` to a function building the PrimFunc."""

    def __init__(self, target: KernelTarget) -> None:
        self.target = target
        self.builders: dict[str, Callable[[], Any]] = {}
        self.specs: dict[str, Any] = {}
        self.products: list[str | None] = []  # of each with constant weights, in order: type of the kernel that took it

    def add(self, spec: Any, build: Callable[[Any, KernelTarget], Any]) -> str:
        """Registers a spec once; the name is the spec's own, with a number where two specs share it."""
        base, number = spec.name, 1
        name = base
        while name in self.specs and self.specs[name] != spec:
            number += 1
            name = f"{base}_{number}"
        self.specs[name] = spec
        self.builders[name] = lambda: build(spec, self.target)
        return name


@dataclass
class PassContext:
    """State that passes share next to the graph: kernels, states, and what they found out."""

    table: KernelTable
    layout: StateLayout
    states: StateBindings
    in_place: list[Var] = field(default_factory=list)  # parameters of states that kernels update in place
    unfused: list[str] = field(default_factory=list)  # a line for each product left to TVM's stock operators


def call_kernel(name: str, args: list[Expr], like: Expr) -> Expr:
    """A call of a kernel of ours whose result has the type of ``like``."""
    return relax.op.call_dps_packed(name, relax.Tuple(args), out_ty=relax.TensorType(like.ty.shape, like.ty.dtype))


def new_var(name: str, shape: list[Any], dtype: str) -> Var:
    """A variable of the dataflow block: what is no such variable counts as a result, and TVM would not fuse it."""
    return relax.DataflowVar(name, relax.TensorType(shape, dtype))
