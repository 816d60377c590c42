"""ONNX to Relax: the graph, its stream contract, and the two parameters compiled code has beside it (slots and clock)."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import tvm
from edgeemo_runtime.errors import EdgeEmoError
from tvm import relax, tirx
from tvm.relax.frontend.onnx import from_onnx

from edgeemo.compile.passes.graph import MAIN, Graph
from edgeemo.compile.plan import StatePlan
from edgeemo.export.contract import StreamContract, read_contract


@dataclass
class Imported:
    mod: tvm.IRModule
    contract: StreamContract | None
    states: StatePlan
    inputs: list[str]  # graph inputs that are not states, in order
    outputs: list[str]  # graph outputs that are not states, in order


def import_onnx(model: onnx.ModelProto, source: str) -> Imported:
    """Relax module whose ``main`` takes (inputs and states as in ONNX, slots, clock) with one symbolic batch."""
    contract = read_contract(model, source)
    state_inputs = {s.input: s for s in contract.states} if contract else {}
    state_outputs = {s.output: s for s in contract.states} if contract else {}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or any(d.dim_param or not d.dim_value for d in dims[1:]):
            raise EdgeEmoError(f"{source}: {value.name}: only the first dimension (the batch) may be symbolic")
    try:
        mod = from_onnx(model, keep_params_in_input=False)
    except Exception as error:  # TVM raises its own types for what it does not import
        raise EdgeEmoError(f"{source}: TVM's ONNX importer refused it: {str(error).strip().splitlines()[-1][:300]}") from error
    mod = relax.transform.DecomposeOpsForInference()(mod)
    mod = relax.transform.DeadCodeElimination([MAIN])(mod)
    graph = Graph(mod)
    params = {p.name: p for p in graph.func.params}
    states = StatePlan({s.name: s.shape for s in contract.states} if contract else {})
    states.params = {params[i]: s.name for i, s in state_inputs.items()}
    states.rings = {params[i] for i, s in state_inputs.items() if s.update == "ring"}
    body = graph.func.body.body
    result = graph.value.get(body, body)
    fields = list(result.fields) if isinstance(result, relax.Tuple) else [body]
    names = [o.name for o in model.graph.output]
    by_name = dict(zip(names, fields, strict=True))
    states.next_of = {params[s.input]: by_name[o] for o, s in state_outputs.items()}
    batch = next(d for p in params.values() for d in p.ty.shape if isinstance(d, tirx.Var))
    states.slots = relax.Var("slots", relax.TensorType([batch], "int32"))
    states.clock = relax.Var("clock", relax.TensorType([batch], "int32"))
    func = relax.Function([*graph.func.params, states.slots, states.clock], graph.func.body, None, True, None)
    mod[MAIN] = func.with_attr("global_symbol", MAIN)
    return Imported(
        mod,
        contract,
        states,
        [i.name for i in model.graph.input if i.name in params and i.name not in state_inputs],
        [n for n in names if n not in state_outputs],
    )
