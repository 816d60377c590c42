"""One pass on a small graph: what of Relax goes in, and what comes out."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import onnx
from tvm import relax

from edgeemo.compile.importer import import_onnx
from edgeemo.compile.ir import MAIN, Graph, KernelTable, PassContext
from edgeemo.targets.board import load_target


def operators(mod: Any) -> list[str]:
    """Operators of main, in order: an operator's name without "relax.", or a kernel's."""
    names = []
    for block in mod[MAIN].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if not isinstance(value, relax.Call):
                continue
            is_kernel = str(value.op.name) == "relax.call_dps_packed"
            names.append(str(value.args[0].global_symbol) if is_kernel else str(value.op.name).removeprefix("relax."))
    return names


def after(model: onnx.ModelProto, *passes: ModuleType) -> tuple[list[str], PassContext, Graph]:
    """Operators of main after ``passes``, for this machine; what the passes noted; the graph."""
    imported = import_onnx(model, "test")
    graph = Graph(imported.mod)
    context = PassContext(KernelTable(load_target("host").kernels), imported.layout, imported.states)
    for one in passes:
        one.run(graph, context)
    return operators(graph.finish()), context, graph
