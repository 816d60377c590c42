"""The list of passes, and the stages from an imported model to one step function."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from tvm import relax

from edgeemo.compile.codegen.step_function import Step, build_step
from edgeemo.compile.importer import Imported
from edgeemo.compile.ir import Graph, KernelTable, PassContext
from edgeemo.compile.passes import (
    canonicalize_clip,
    fuse_attention,
    fuse_batched_matmul,
    fuse_layer_norm,
    fuse_linear,
    legalize,
    lower_quantize,
)

Dump = Callable[[str, Callable[[], str]], None]  # name, and a function making the text: printing a module takes a second

# In this order: each rebinds what it fuses to a call of a kernel of ours. Each is a module with ``run(graph, context)``.
PASSES: tuple[ModuleType, ...] = (
    canonicalize_clip,
    fuse_attention,  # before the products: it gives their results scales of its own
    fuse_linear,
    fuse_batched_matmul,
    fuse_layer_norm,
    lower_quantize,  # those that no fusion has taken in
)


def _dump_of(one: ModuleType) -> str:
    return f"{one.__name__.rpartition('.')[2]}.relax"


STAGES = ("imported.relax", *map(_dump_of, PASSES), "legalize.relax", "step.tir", "step.s")


def stage(name: str) -> str:
    """File name of a stage's dump: its number, and ``name`` of STAGES."""
    return f"{STAGES.index(name):02}_{name}"


def lower(model: Imported, table: KernelTable, dump: Dump) -> tuple[Step, list[str]]:
    """The step, and a line for each product left to TVM's stock operators; ``table`` gets the kernels it uses. ``dump`` sees
    the module as imported, after each pass, legalized, and as TIR."""
    dump(stage("imported.relax"), lambda: model.mod.script(show_meta=False))
    graph, context = Graph(model.mod), PassContext(table, model.layout, model.states)
    for one in PASSES:
        one.run(graph, context)
        dump(stage(_dump_of(one)), lambda: graph.finish().script(show_meta=False))
    mod = legalize.run(graph.finish(_results(graph, context)), infinities=model.contract is None)
    dump(stage("legalize.relax"), lambda: mod.script(show_meta=False))
    outputs, inputs = model.outputs, list(model.inputs.values())
    step = build_step(mod, table, model.layout, model.states, inputs, outputs, model.contract is not None)
    dump(stage("step.tir"), lambda: step.mod.script(show_meta=False))
    return step, context.unfused


def _results(graph: Graph, context: PassContext) -> relax.Tuple:
    """main's results without the states that kernels now update in place."""
    layout, states = context.layout, context.states
    layout.copied = set(layout.shapes) - {states.params[p] for p in context.in_place}
    dropped = {states.next_of[p] for p in context.in_place}
    kept = [f for f in graph.results() if f not in dropped]
    name_of = {value: states.params[p] for p, value in states.next_of.items()}
    outputs = [f for f in kept if f not in name_of]
    stored = sorted((f for f in kept if f in name_of), key=lambda f: list(layout.shapes).index(name_of[f]))
    return relax.Tuple([*outputs, *stored])
