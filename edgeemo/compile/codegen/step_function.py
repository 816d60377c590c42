"""One exported function from a lowered ``main``: kernels called in order, every tensor placed in the arena.

    step(slots int32 (B,), inputs..., states float32 (slots, words), weights uint8 (n,), arena uint8 (n,), outputs...)

It loads with apache-tvm-ffi alone (no Relax VM, no libtvm_runtime): kernels are private functions taking pointers, all memory is
the caller's. B is symbolic; an arena offset is a constant times B, so the plan holds for every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import tvm
from edgeemo_runtime.errors import EdgeEmoError
from tvm import ir, relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.ir import Graph, KernelTable, static_shape
from edgeemo.compile.kernels import copy as state_kernels
from edgeemo.compile.memory.arena import Arena
from edgeemo.compile.memory.states import StateBindings, StateLayout
from edgeemo.compile.memory.weights import WeightBlob
from edgeemo.compile.stream_functions.decision_rules import DECIDE, decide
from edgeemo.compile.stream_functions.intake import INTAKE, intake

STEP = "step"
Expr = Any
Var = Any


@dataclass
class Tensor:
    """A value: where it lies. ``offset`` is in bytes per stream for the arena, in bytes for weights and states."""

    place: str  # arena, weights, input, output, slots, state
    offset: int = 0
    name: str = ""
    released: bool = False  # its place in the arena is another's by now


@dataclass
class Step:
    """The module to build, and the memory its caller must bring."""

    mod: tvm.IRModule
    weights: bytes
    arena_bytes_per_stream: int
    calls: list[str]
    streams: bool  # calls go through it, by the functions of stream_functions/


def _bytes_per_stream(var: Var) -> int:
    """Size of one stream's part; a tensor without the batch counts whole."""
    return _type_bytes(var.ty)


class _Builder:
    def __init__(
        self,
        mod: tvm.IRModule,
        table: KernelTable,
        layout: StateLayout,
        states: StateBindings,
        inputs: list[str],
        outputs: list[str],
        streams: bool,
    ) -> None:
        self.streams = streams
        self.graph, self.table, self.layout, self.states = Graph(mod), table, layout, states
        self.inputs, self.output_names = inputs, outputs
        self.weights, self.arena = WeightBlob(table.target.prefetch_distance_bytes), Arena()
        self.tensors: dict[Var, Tensor] = {}
        self.calls: list[tuple[str, list[Tensor]]] = []
        self.private: dict[str, tirx.PrimFunc] = {}
        self.scratch: dict[str, list[int]] = {}
        self.last_use: dict[Var, int] = {}
        self.live: dict[Var, Tensor] = {}  # of ``tensors``, of which the first ``seen`` were looked at, those that are read yet
        self.seen = 0

    # -- planning --------------------------------------------------------------------------------------------------------
    def plan(self) -> None:
        graph = self.graph
        result = self._result()
        alias = self._aliases()
        for at, binding in enumerate(graph.bindings):
            for used in relax.analysis.free_vars(binding.value):
                self.last_use[alias.get(used, used)] = at
        end = len(graph.bindings)
        for _, value in result:
            self.last_use[alias.get(value, value)] = end
        for param in graph.func.params:
            self._place_param(param)
        direct = {alias.get(v, v): Tensor("output", i) for i, (name, v) in enumerate(result) if name in self.output_names}
        for at, binding in enumerate(graph.bindings):
            var, value = binding.var, binding.value
            if alias.get(var, var) is not var:
                self.tensors[var] = self.tensors[alias[var]]
            elif isinstance(value, relax.Call) and graph.op(var) in ("relax.call_dps_packed", "relax.call_tir"):
                self._place_call(var, value, direct.get(var))
            elif isinstance(value, relax.TupleGetItem):
                self.tensors[var] = self.tensors[value.tuple_value][int(value.index)]  # type: ignore[index]
            self._release(at)
        self._finish(result)

    def _result(self) -> list[tuple[str, Var]]:
        stored = [n for n in self.layout.shapes if n in self.layout.copied]
        return list(zip([*self.output_names, *stored], self.graph.results(), strict=True))

    def _aliases(self) -> dict[Var, Var]:
        """Reshapes, and variables bound to variables, are the tensor they come from."""
        alias: dict[Var, Var] = {}
        for binding in self.graph.bindings:
            if self.graph.op(binding.var) == "relax.reshape" or isinstance(binding.value, relax.Var):
                source = binding.value if isinstance(binding.value, relax.Var) else binding.value.args[0]
                if isinstance(source, relax.Var):
                    alias[binding.var] = alias.get(source, source)
        return alias

    def _place_param(self, param: Var) -> None:
        states, layout = self.states, self.layout
        if param.same_as(states.slots):
            self.tensors[param] = Tensor("slots")
        elif param.same_as(states.clock):
            self.tensors[param] = Tensor("state", 0)
        elif param in states.params:
            name = states.params[param]
            if name in layout.copied:
                tensor = Tensor("arena", self.arena.allocate(layout.words(name) * 4))
                spec = state_kernels.StateCopy(layout.words(name), layout.stride, False)
                kernel = self.table.add(spec, state_kernels.build_copy)
                self.calls.append((kernel, [Tensor("slots"), Tensor("state", layout.offset[name]), tensor]))
                self.tensors[param] = tensor
            else:
                self.tensors[param] = Tensor("state", layout.offset[name])
        else:
            self.tensors[param] = Tensor("input", self.inputs.index(param.name), param.name)

    def _place(self, value: Expr) -> Tensor:
        if isinstance(value, ir.GenericConst):
            return Tensor("weights", self.weights.add(value.value.numpy()))
        return self.tensors[value]

    def _place_call(self, var: Var, call: Expr, output: Tensor | None) -> None:
        if any(not isinstance(a, ir.GenericConst) and a not in self.tensors for a in call.args[1].fields):
            # It is given the batch as a number, which TVM does where no dimension of a tensor is the batch itself.
            raise EdgeEmoError(f"operator {call.args[0].name_hint} goes over rows that are not one item's own")
        args = [self._place(a) for a in call.args[1].fields]
        types = list(call.ty_args)
        if isinstance(types[0], ir.TupleType):
            results = [Tensor("arena", self.arena.allocate(_type_bytes(t))) for t in types[0].fields]
            self.tensors[var] = results  # type: ignore[assignment]
        else:
            results = [output or Tensor("arena", self.arena.allocate(_bytes_per_stream(var)))]
            self.tensors[var] = results[0]
        if isinstance(call.args[0], relax.ExternFunc):
            self.calls.append((str(call.args[0].global_symbol), args + results))
            return
        name = call.args[0].name_hint
        if name not in self.private:
            self.private[name], self.scratch[name] = _as_pointer_kernel(self.graph.mod[call.args[0]], name)
        scratch = [self.arena.allocate(size) for size in self.scratch[name]]
        self.calls.append((name, [*args, *results, *(Tensor("arena", s) for s in scratch)]))
        for s in scratch:
            self.arena.free(s)

    def _release(self, at: int) -> None:
        self.live |= dict(islice(self.tensors.items(), self.seen, None))
        self.seen = len(self.tensors)
        ended = {v: t for v, t in self.live.items() if self.last_use.get(v, -1) <= at}
        for var in ended:
            del self.live[var]
        kept = {id(t) for t in self.live.values()}
        for var, tensor in ended.items():
            if self.last_use.get(var, -1) != at:
                continue
            # Of a tuple (a split's results) each part lives as long as it is read itself, and is released once: with its own
            # last use, or with the tuple's.
            for part in tensor if isinstance(tensor, list) else [tensor]:
                if part.place == "arena" and id(part) not in kept and not part.released:
                    part.released = True
                    self.arena.free(part.offset)

    def _finish(self, result: list[tuple[str, Var]]) -> None:
        """Results that are not where they belong yet: outputs that alias something else, states that are copied back."""
        layout = self.layout
        for index, (name, var) in enumerate(result):
            tensor = self._place(var)
            if name in self.output_names:
                if tensor.place != "output" or tensor.offset != index:
                    self._copy_to_output(var, tensor, index)
                continue
            spec = state_kernels.StateCopy(layout.words(name), layout.stride, True)
            kernel = self.table.add(spec, state_kernels.build_copy)
            self.calls.append((kernel, [Tensor("slots"), Tensor("state", layout.offset[name]), tensor]))
        if layout.period > 1:
            tick = self.table.add(state_kernels.Tick(layout.period, layout.stride), state_kernels.build_tick)
            self.calls.append((tick, [Tensor("slots"), Tensor("state", 0)]))

    def _copy_to_output(self, var: Expr, tensor: Tensor, index: int) -> None:
        """Copies a result that has its place already: an input, a part of a split, a view of another output, a constant."""
        constant = tensor.place == "weights"
        elements = int(np.prod([d or 1 for d in static_shape(var)[1:]], initial=1))
        spec = state_kernels.OutputCopy(elements, str(var.ty.dtype), constant)
        kernel = self.table.add(spec, state_kernels.build_output_copy)
        self.calls.append((kernel, [tensor, Tensor("output", index)]))

    # -- emitting --------------------------------------------------------------------------------------------------------
    def emit(self) -> Step:
        functions: dict[str, tirx.PrimFunc] = dict(self.private)
        for name, _ in self.calls:
            if name not in functions:
                functions[name] = self.table.builders[name]()
        symbols = {name: ir.GlobalVar(name) for name in functions}
        mod = tvm.IRModule({symbols[n]: f for n, f in functions.items()})
        weights = self.weights.finish()
        mod[STEP] = self._step_function(symbols, len(weights))
        if self.streams:
            mod[INTAKE], mod[DECIDE] = intake(), decide()
        return Step(mod, weights, self.arena.peak, [name for name, _ in self.calls], self.streams)

    def _step_function(self, symbols: dict[str, ir.GlobalVar], weight_bytes: int) -> tirx.PrimFunc:
        """The step. It checks the sizes of all memory that it is given, so that no manifest can make it go beyond."""
        params = {p.name: p for p in self.graph.func.params}
        outputs = [v for name, v in self._result() if name in self.output_names]
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name(STEP)
            batch = T.int64()
            slot_count, arena_bytes = T.int64(), T.int64()

            def buffer(name: str, shape: Any, dtype: str) -> Any:
                return T.arg(name, T.buffer(shape, dtype))

            slots = buffer("slots", (batch,), "int32")
            inputs = [
                buffer(n, (batch, *[int(d) for d in params[n].ty.shape.values[1:]]), str(params[n].ty.dtype)) for n in self.inputs
            ]
            states = buffer("states", (slot_count, self.layout.stride), "float32")
            weights = buffer("weights", (weight_bytes,), "uint8")
            arena = buffer("arena", (arena_bytes,), "uint8")
            results = [
                buffer(n, (batch, *[int(d) for d in v.ty.shape.values[1:]]), str(v.ty.dtype))
                for n, v in zip(self.output_names, outputs, strict=True)
            ]
            T.func_attr({"tirx.noalias": True})
            with T.Assert(arena_bytes >= batch * self.arena.peak, "the arena is smaller than the batch needs"):
                T.evaluate(0)

            def pointer(t: Tensor) -> Expr:
                if t.place == "input":
                    return inputs[t.offset].access_ptr("rw")
                if t.place == "output":
                    return results[t.offset].access_ptr("rw")
                if t.place == "slots":
                    return slots.access_ptr("rw")
                if t.place == "state":
                    return states.access_ptr("rw", offset=t.offset // 4)
                if t.place == "weights":
                    return weights.access_ptr("rw", offset=t.offset)
                return arena.access_ptr("rw", offset=batch * t.offset)

            for name, tensors in self.calls:
                args = [T.Cast("int32", batch), *(pointer(t) for t in tensors)]
                T.evaluate(ir.Call(symbols[name], args, ret_ty=ir.PrimType("int32")))
        return builder.get()


def _type_bytes(ty: Any) -> int:
    size = int(np.prod([_of_one_stream(d) for d in ty.shape], initial=1))
    return size * np.dtype(str(ty.dtype)).itemsize


def _of_one_stream(size: Any) -> int:
    """A dimension where the batch is one: 20 of 20 * batch. Raises EdgeEmoError for one that the batch does not decide."""
    analyzer = tvm.sym.Analyzer()
    for variable in tirx.analysis.undefined_vars(tirx.Evaluate(size), []):
        analyzer.bind(variable, tirx.IntImm("int64", 1))
    value = analyzer.simplify(size)
    if not isinstance(value, tirx.IntImm):
        raise EdgeEmoError(f"a tensor has the size {size}, which the batch does not decide")
    return int(value)


def _as_pointer_kernel(func: tirx.PrimFunc, name: str) -> tuple[tirx.PrimFunc, list[int]]:
    """A stock PrimFunc over buffers as a private one over (batch, pointers); its own allocations become parameters at the end.

    Returns it with the bytes per stream of each such allocation.
    """
    root = func.body.block
    allocations = list(root.alloc_buffers)
    block = tvm.s_tir.SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, root.body, root.init, [], root.match_buffers, root.annotations
    )
    body: Any = tvm.s_tir.SBlockRealize([], tirx.IntImm("bool", 1), block)
    buffers = [*func.params, *allocations]
    symbolic = {str(d.name): d for b in buffers for d in b.ty.shape if isinstance(d, tirx.Var)}
    batch = tirx.Var("batch32", "int32")
    pointers = [tirx.Var(f"p{i}", ir.PointerType(ir.PrimType(str(b.ty.dtype)))) for i, b in enumerate(buffers)]
    stmts: list[Any] = [tirx.Bind(dim, tirx.Cast("int64", batch)) for dim in symbolic.values()]
    stmts += [tirx.DeclBuffer(b, data=p) for b, p in zip(buffers, pointers, strict=True)]
    stmts += [body, tirx.Return(tirx.IntImm("int32", 0))]
    attrs = ir.make_node("ir.DictAttrs", **{"tirx.noalias": True, "s_tir": True})
    made = tirx.PrimFunc([batch, *pointers], tirx.SeqStmt(stmts), ir.PrimType("int32"), attrs)
    return made, [_type_bytes(b.ty) for b in allocations]


def build_step(
    mod: tvm.IRModule,
    table: KernelTable,
    layout: StateLayout,
    states: StateBindings,
    inputs: list[str],
    outputs: list[str],
    streams: bool,
) -> Step:
    """Plans memory for a lowered module and emits its step function and kernels; where calls are streamed through it, also what
    is done around them (stream_functions/).

    ``inputs`` are main's parameters that are neither states nor slots, ``outputs`` the first results; both in calling order.
    """
    builder = _Builder(mod, table, layout, states, inputs, outputs, streams)
    builder.plan()
    return builder.emit()
