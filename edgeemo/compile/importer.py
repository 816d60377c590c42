"""ONNX to Relax: the graph, its stream contract, and the two parameters compiled code has next to it (slots and clock)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import onnx
import tvm
from edgeemo_runtime.errors import EdgeEmoError
from onnx import TensorProto, helper, numpy_helper
from tvm import relax, tirx

from edgeemo.compile.ir import MAIN, Graph
from edgeemo.compile.memory.states import StateBindings, StateLayout
from edgeemo.compile.relax_import import from_onnx
from edgeemo.compile.stored_weights import with_plain_weights
from edgeemo.onnxlib.contract import StreamContract, read_contract

HELP = "`edgeemo adapt` makes it so"


@dataclass
class Imported:
    mod: tvm.IRModule
    contract: StreamContract | None
    layout: StateLayout
    states: StateBindings
    inputs: dict[str, str]  # graph inputs that are not states, in order: name in the model, and of main's parameter
    outputs: list[str]  # graph outputs that are not states, in order


def import_onnx(model: onnx.ModelProto, source: str) -> Imported:
    """Relax module whose ``main`` takes (inputs and states as in ONNX, slots, clock) with one symbolic batch. Raises EdgeEmoError
    naming the input, output or node that does not come in."""
    contract = read_contract(model, source)
    state_inputs = {s.input: s for s in contract.states} if contract else {}
    state_outputs = {s.output: s for s in contract.states} if contract else {}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or not dims[0].dim_param:
            raise EdgeEmoError(
                f"{source}: {value.name}: the first dimension must be the batch, and symbolic; `edgeemo adapt` makes it so"
            )
        if any(d.dim_param or not d.dim_value for d in dims[1:]):
            raise EdgeEmoError(
                f"{source}: {value.name}: only the first dimension (the batch) may be symbolic; `edgeemo adapt` fixes others"
            )
    model, halves = _half_weights_as_inputs(_signed(with_plain_weights(model)))
    try:
        mod = from_onnx(model)
    except EdgeEmoError as error:
        raise EdgeEmoError(f"{source}: {error}") from error
    # By position: the importer rewrites names that are no identifiers.
    by_onnx_name = dict(zip((i.name for i in model.graph.input), mod[MAIN].params, strict=True))
    values = {by_onnx_name[n].name: tvm.runtime.tensor(a) for n, a in halves.items()}
    mod = relax.transform.BindParams(MAIN, values)(mod)
    mod = relax.transform.DecomposeOpsForInference()(mod)
    mod = relax.transform.DeadCodeElimination([MAIN])(mod)
    graph = Graph(mod)
    names_in = [i.name for i in model.graph.input if i.name not in halves]
    params = dict(zip(names_in, graph.func.params, strict=True))
    layout = StateLayout({s.name: s.shape for s in contract.states} if contract else {})
    names = [o.name for o in model.graph.output]
    by_name = dict(zip(names, graph.results(), strict=True))
    batch = next(d for p in params.values() for d in p.ty.shape if isinstance(d, tirx.Var))
    states = StateBindings(
        {params[i]: s.name for i, s in state_inputs.items()},
        {params[i] for i, s in state_inputs.items() if s.update == "ring"},
        {params[s.input]: by_name[o] for o, s in state_outputs.items()},
        relax.Var("slots", relax.TensorType([batch], "int32")),
        relax.Var("clock", relax.TensorType([batch], "int32")),
    )
    func = relax.Function([*graph.func.params, states.slots, states.clock], graph.func.body, None, True, None)
    mod[MAIN] = func.with_attr("global_symbol", MAIN)
    return Imported(
        mod,
        contract,
        layout,
        states,
        {n: params[n].name for n in names_in if n not in state_inputs},
        [n for n in names if n not in state_outputs],
    )


MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Identity", "DequantizeLinear")


def _signed(model: onnx.ModelProto) -> onnx.ModelProto:
    """uint8 activations as int8 ones, 128 less and their zero points as well: the same values, and what the kernels take. Left
    alone where something computes with the bytes, or the graph gives them out."""
    constants = {i.name: i for i in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear") and len(n.input) == 3]
    unsigned = [n for n in pairs if n.input[2] in constants and constants[n.input[2]].data_type == TensorProto.UINT8]
    bytes_ = {n.output[0] for n in unsigned if n.op_type == "QuantizeLinear"}
    for node in model.graph.node:
        if bytes_ & set(node.input):
            if node.op_type not in MOVES:
                return model
            bytes_ |= set(node.output) if node.op_type != "DequantizeLinear" else set()
    if not unsigned or bytes_ & {o.name for o in model.graph.output}:
        return model
    if any(n.input[0] not in bytes_ for n in unsigned if n.op_type == "DequantizeLinear"):
        return model  # weights
    model = copy.deepcopy(model)
    for name in {n.input[2] for n in unsigned}:
        zero = next(i for i in model.graph.initializer if i.name == name)
        zero.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(zero).astype(np.int16) - 128).astype(np.int8), name))
    del model.graph.value_info[:]
    return model


def _half_weights_as_inputs(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A copy of the model whose float16 initializers are inputs, and their values by input name.

    TVM's importer evaluates Cast(constant) on the spot: float16 weights would come out as float32 ones, twice the size.
    """
    halves = [i for i in model.graph.initializer if i.data_type == TensorProto.FLOAT16]
    if not halves:
        return model, {}
    model = copy.deepcopy(model)
    renamed = {h.name: f"half_weight_{n}" for n, h in enumerate(halves)}
    kept = [i for i in model.graph.initializer if i.name not in renamed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    for half in halves:
        model.graph.input.append(helper.make_tensor_value_info(renamed[half.name], TensorProto.FLOAT16, half.dims))
    return model, {renamed[h.name]: numpy_helper.to_array(h) for h in halves}
