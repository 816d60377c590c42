"""Any ONNX graph as one with static shapes but for the batch: dimensions fixed, scalars set, constants folded, opset 20 or
later.

ONNX Runtime folds the graph twice, for a batch of 2 and one of 3. Both must come out as the same nodes; constants that differ
between them hold the batch, and are rewritten so that any batch will do. What computes with the batch in another way is refused
by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from edgeemo_runtime.errors import EdgeEmoError
from onnx import TensorProto, helper, numpy_helper, version_converter

from edgeemo.adapt.batch import LARGE, SMALL, free_the_batch
from edgeemo.adapt.constants import fold_constants
from edgeemo.adapt.loops import has_loops, unroll_loops
from edgeemo.adapt.operators.context import Context
from edgeemo.adapt.operators.places import shape_of
from edgeemo.onnxlib.feeds import runnable
from edgeemo.onnxlib.graph import (
    BATCH,
    Maker,
    Shape,
    constants_of,
    dims,
    inputs_of,
    known_types,
    label,
    replace_nodes,
    set_dims,
    sized,
)  # fmt: skip
from edgeemo.onnxlib.session import open_session

OPSET = 20
NESTED = 4  # loops within loops
KINDS = {getattr(TensorProto, name) for name in (
    "FLOAT", "DOUBLE", "FLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"
)}  # of inputs  # fmt: skip
# The first makes one matrix of all items' rows, and a Gemm of it; the second rounds a float weight between quantized activations.
UNWANTED = ["MatMulAddFusion", "WeightBiasQuantization"]


def fix(model: onnx.ModelProto, source: str, shapes: dict[str, Shape], values: dict[str, float]) -> dict[str, Shape]:
    """Sets inputs to constants (``values``) and shapes of the others in place, and returns these, "batch" where that is. A first
    dimension without a size, or of 1, is the batch; other dimensions without one must be in ``shapes``.

    Raises EdgeEmoError naming the input, and the option that helps.
    """
    known = {i.name: i for i in inputs_of(model)}
    if unknown := sorted({*shapes, *values} - set(known)):
        raise EdgeEmoError(f"{source}: has no input {unknown[0]}; its inputs are {', '.join(known)}")
    for name, value in values.items():
        kind = helper.tensor_dtype_to_np_dtype(known[name].type.tensor_type.elem_type)
        whole = np.full([d if isinstance(d, int) else 1 for d in dims(known[name])], value, dtype=kind)
        model.graph.initializer.append(numpy_helper.from_array(whole, name))
        model.graph.input.remove(known.pop(name))
    fixed: dict[str, Shape] = {}
    for name, value_info in known.items():
        kind = value_info.type.tensor_type.elem_type
        if kind not in KINDS:
            said = TensorProto.DataType.Name(kind) if kind else "no tensor"
            raise EdgeEmoError(
                f"{source}: input {name} is {said}; the runtime takes tensors of numbers of 8 to 64 bits, and bool; "
                f"--set {name}=VALUE makes it a constant where it is a number"
            )
        shape = shapes.get(name) or dims(value_info)
        if not shape:
            raise EdgeEmoError(f"{source}: input {name} is a scalar, which a batch of streams cannot share; --set {name}=VALUE")
        if name not in shapes:
            shape = (BATCH if isinstance(shape[0], str) or shape[0] == 1 else shape[0], *shape[1:])
        if odd := [d for d in shape if isinstance(d, str) and d != BATCH]:
            written = ",".join(str(d) if isinstance(d, int) or d == BATCH else "SIZE" for d in shape)
            raise EdgeEmoError(f"{source}: input {name}: dimension {odd[0]!r} has no size; --shape {name}={written}")
        if shape.count(BATCH) > 1 or (BATCH not in shape and name not in shapes):
            several = ",".join(map(str, (BATCH, *shape[1:])))
            raise EdgeEmoError(
                f"{source}: input {name}: shape {shape} needs the batch once; --shape {name}={several} where its first "
                f"dimension is that, --shape {name}={','.join(map(str, shape))} where all of it is one item's"
            )
        fixed[name] = shape
        set_dims(value_info, shape)  # what the file says of its batch may be a number
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    return fixed


def fold(model: onnx.ModelProto, source: str, shapes: dict[str, Shape]) -> onnx.ModelProto:
    """The graph with ``shapes``, folded. Raises EdgeEmoError naming the node that holds the batch in a way nothing can undo."""
    small, large = (_folded(model, source, shapes, n) for n in (SMALL, LARGE))
    if [(n.op_type, len(n.input)) for n in small.graph.node] != [(n.op_type, len(n.input)) for n in large.graph.node]:
        pairs = zip_longest(small.graph.node, large.graph.node)
        first = next(b or a for a, b in pairs if not (a and b) or (a.op_type, len(a.input)) != (b.op_type, len(b.input)))
        raise EdgeEmoError(
            f"{source}: node {label(first)} ({first.op_type}): is not there, or another, with {SMALL} streams for {LARGE}; "
            "export it with a dynamic first dimension"
        )
    free_the_batch(small, large, source)
    del small.graph.value_info[:]
    return _batch_first(small)


def fold_one(model: onnx.ModelProto, source: str, shapes: dict[str, Shape]) -> onnx.ModelProto:
    """The graph of one item, folded, every shape in it known."""
    return _folded(model, source, shapes, 1)


def refuse_foreign(model: onnx.ModelProto, source: str, known: Collection[str]) -> None:
    """Raises EdgeEmoError naming an operator that is neither ONNX's own nor ``known``."""
    if node := next((n for n in model.graph.node if n.domain not in ("", "ai.onnx") and n.op_type not in known), None):
        raise EdgeEmoError(
            f"{source}: node {label(node)}: {node.domain}:{node.op_type} is no operator of ONNX; export the model without it"
        )


def upgrade(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """At OPSET or later. Raises EdgeEmoError where ONNX's converter does not get it there."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises RuntimeError and its own types
        raise EdgeEmoError(
            f"{source}: opset {version} cannot be brought to {OPSET} ({str(error).splitlines()[0][:200]}); "
            f"export it with opset {OPSET}"
        ) from error


def _folded(model: onnx.ModelProto, source: str, shapes: dict[str, Shape], batch: int) -> onnx.ModelProto:
    """By ONNX Runtime, for ``batch`` items, with inferred shapes; loops are unrolled as their number of turns becomes known."""
    folded = _without_shapes(_optimized(sized(model, shapes, batch), source, batch))
    for _ in range(NESTED):
        if not has_loops(folded):
            break
        folded = _without_shapes(_optimized(unroll_loops(folded, source), source, batch))
    if branch := next((n for n in folded.graph.node if n.op_type in ("If", "Loop", "Scan")), None):
        raise EdgeEmoError(f"{source}: node {label(branch)}: {branch.op_type} depends on the data; --set may fix it")
    return _with_shapes(onnx.shape_inference.infer_shapes(fold_constants(folded), data_prop=True), source)


def _with_shapes(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """Runs what onnx infers no shape of, to see it."""
    known = {v.name: v for v in (*model.graph.value_info, *model.graph.output)}
    unknown = [o for n in model.graph.node for o in n.output if o and (o not in known or not _is_known(known[o]))]
    if not unknown:
        return model
    bare = onnx.ModelProto()  # what was inferred so far may be wrong
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for info in bare.graph.output:
        info.type.tensor_type.ClearField("shape")
    found = dict(zip(unknown, open_session(bare, unknown).run(unknown, runnable(bare, 1, source)), strict=True))
    outputs = {o.name: o for o in model.graph.output}
    for name, value in found.items():
        info = outputs.get(name) or known.get(name) or model.graph.value_info.add(name=name)
        info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype)
        set_dims(info, np.asarray(value).shape)
    return model


def _is_known(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim)


def _without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes that ONNX Runtime did not see are known when those before them are constants."""
    while any(n.op_type in ("Shape", "Size") for n in model.graph.node):
        context, nodes = Context(known_types(model), constants_of(model), ""), list[onnx.NodeProto]()
        for node in model.graph.node:
            make = Maker(model, label(node))
            known = node.op_type in ("Shape", "Size") and shape_of(node, context, make)
            nodes += make.nodes if known else [node]
        if [n.op_type for n in nodes] == [n.op_type for n in model.graph.node]:
            break
        replace_nodes(model, nodes)
        model = fold_constants(model)
    return model


def _optimized(model: onnx.ModelProto, source: str, batch: int) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="edgeemo-") as folder:
        options.optimized_model_filepath = str(Path(folder, "folded.onnx"))
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=UNWANTED
            )
        except Exception as error:  # ONNX Runtime raises types of its own
            said = str(error).replace("\n", " ")[:300]
            raise EdgeEmoError(
                f"{source}: ONNX Runtime does not run it with {batch} streams ({said}); export it with a dynamic first "
                "dimension, or --shape INPUT=1,batch,SIZE says where the batch is"
            ) from error
        folded = onnx.load(options.optimized_model_filepath)
    version = next(o.version for o in folded.opset_import if o.domain in ("", "ai.onnx"))
    del folded.opset_import[:]  # of ONNX Runtime's own domains, which no node is of
    folded.opset_import.append(helper.make_opsetid("", version))
    return folded


def _batch_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs whose batch is not their first dimension get a transpose."""
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    for values, at_input in ((model.graph.input, True), (model.graph.output, False)):
        for info in values:
            shape = dims(info)
            axis = shape.index(BATCH)
            if axis == 0:
                continue
            moved = [axis, *(i for i in range(len(shape)) if i != axis)]
            set_dims(info, tuple(shape[i] for i in moved))
            inner = f"{info.name}_as_it_was"
            for node in model.graph.node:
                for names in (node.input, node.output):
                    for i, name in enumerate(names):
                        if name == info.name:
                            names[i] = inner
            ends, perm = ((info.name, inner), np.argsort(moved)) if at_input else ((inner, info.name), np.array(moved))
            made = helper.make_node("Transpose", [ends[0]], [ends[1]], name=f"{info.name}.batch_first", perm=perm.tolist())
            (before if at_input else after).append(made)
    nodes = [*before, *model.graph.node, *after]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
