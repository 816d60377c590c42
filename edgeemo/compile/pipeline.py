"""The order of passes from an imported model to one step function."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from edgeemo.compile.codegen.step_function import Step, build_step
from edgeemo.compile.importer import Imported
from edgeemo.compile.ir import Graph, KernelTable
from edgeemo.compile.passes import canonicalize_clip, fuse_attention, fuse_batched_matmul, fuse_layer_norm, fuse_linear, legalize

Dump = Callable[[str, Callable[[], str]], None]  # name, and a function making the text: printing a module takes a second


def lower(model: Imported, table: KernelTable, dump: Dump) -> tuple[Step, list[str]]:
    """Returns the step, and a line for each product left to TVM's stock operators; ``table`` gets the kernels it uses."""
    dump("0_imported.relax", lambda: model.mod.script(show_meta=False))
    graph = Graph(model.mod)
    canonicalize_clip.run(graph)
    in_place = fuse_attention.run(graph, table, model.states)
    left = fuse_linear.run(graph, table)
    fuse_batched_matmul.run(graph, table)
    fuse_layer_norm.run(graph, table)
    fuse_layer_norm.run_quantize(graph, table)
    mod = graph.finish(_results(graph, model, in_place))
    dump("1_fused.relax", lambda: mod.script(show_meta=False))
    mod = legalize.run(mod)
    dump("2_lowered.relax", lambda: mod.script(show_meta=False))
    step = build_step(mod, table, model.states, list(model.inputs.values()), model.outputs, model.contract is not None)
    dump("3_step.tir", lambda: step.mod.script(show_meta=False))
    return step, left


def _results(graph: Graph, model: Imported, in_place: list) -> relax.Tuple:
    """main's results without the states that kernels now update in place."""
    states = model.states
    kept_in_place = {states.params[p] for p in in_place}
    states.copied = set(states.shapes) - kept_in_place
    dropped = {states.next_of[p] for p in in_place}
    kept = [f for f in graph.results() if f not in dropped]
    order = {f: n for n, f in ((states.params[p], v) for p, v in states.next_of.items())}
    outputs = [f for f in kept if f not in order]
    stored = sorted((f for f in kept if f in order), key=lambda f: list(states.shapes).index(order[f]))
    return relax.Tuple([*outputs, *stored])
