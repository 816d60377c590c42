"""Any ONNX graph as one with static shapes but for the batch: dimensions fixed, scalars set, constants folded, opset 20 or
later.

ONNX Runtime folds the graph twice, for a batch of 2 and one of 3. Both must come out as the same nodes; constants that differ
between them hold the batch, and are rewritten so that any batch will do. What computes with the batch in another way is refused
by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper, numpy_helper, version_converter

OPSET = 20
BATCH = "batch"
# The first makes one matrix of all items' rows, and a Gemm of it; the second rounds a float weight between quantized activations.
UNWANTED = ["MatMulAddFusion", "WeightBiasQuantization"]
SMALL, LARGE = 2, 3  # neither is 1: a dimension of 1 broadcasts, and would hide what depends on the batch

Shape = tuple[int | str, ...]


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Those that are no constants; old files list initializers among the inputs."""
    constants = {i.name for i in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in constants]


def dims(value: onnx.ValueInfoProto) -> Shape:
    """An int, or the name of a dimension; "?" where it has neither."""
    return tuple(d.dim_param or (d.dim_value if d.dim_value > 0 else "?") for d in value.type.tensor_type.shape.dim)


def set_dims(value: onnx.ValueInfoProto, shape: Shape) -> None:
    del value.type.tensor_type.shape.dim[:]
    for size in shape:
        value.type.tensor_type.shape.dim.add(**({"dim_param": size} if isinstance(size, str) else {"dim_value": size}))


def fix(model: onnx.ModelProto, source: str, shapes: dict[str, Shape], values: dict[str, float]) -> dict[str, Shape]:
    """Sets inputs to constants (``values``) in place, and says every other input's shape, "batch" where that is. A first
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
        shape = shapes.get(name) or dims(value_info)
        if not shape:
            raise EdgeEmoError(f"{source}: input {name} is a scalar, which a batch of streams cannot share; --set {name}=VALUE")
        if name not in shapes:
            shape = (BATCH if isinstance(shape[0], str) or shape[0] == 1 else shape[0], *shape[1:])
        if odd := [d for d in shape if isinstance(d, str) and d != BATCH]:
            written = ",".join(str(d) if isinstance(d, int) or d == BATCH else "SIZE" for d in shape)
            raise EdgeEmoError(f"{source}: input {name}: dimension {odd[0]!r} has no size; --shape {name}={written}")
        if shape.count(BATCH) != 1:
            raise EdgeEmoError(f"{source}: input {name}: shape {shape} needs the batch once; --shape {name}=batch,...")
        fixed[name] = shape
    return fixed


def fold(model: onnx.ModelProto, source: str, shapes: dict[str, Shape]) -> onnx.ModelProto:
    """The graph with ``shapes``, folded. Raises EdgeEmoError naming the node that holds the batch in a way nothing can undo."""
    small, large = (_folded(model, source, shapes, n) for n in (SMALL, LARGE))
    if [(n.op_type, len(n.input)) for n in small.graph.node] != [(n.op_type, len(n.input)) for n in large.graph.node]:
        raise EdgeEmoError(f"{source}: folds to other nodes for {SMALL} streams than for {LARGE}: it is no graph of a batch")
    _free_the_batch(small, large, source)
    for info, other in zip((*small.graph.input, *small.graph.output), (*large.graph.input, *large.graph.output), strict=True):
        shape = tuple(BATCH if a != b else a for a, b in zip(dims(info), dims(other), strict=True))
        if shape.count(BATCH) != 1 or not all(isinstance(d, int) or d == BATCH for d in shape):
            raise EdgeEmoError(
                f"{source}: {info.name}: {dims(info)} for {SMALL} streams and {dims(other)} for {LARGE}: no one batch"
            )
        set_dims(info, shape)
    del small.graph.value_info[:]
    return _batch_first(small)


def refuse_foreign(model: onnx.ModelProto, source: str, known: Collection[str]) -> None:
    """Raises EdgeEmoError naming an operator that is neither ONNX's own nor ``known``."""
    if node := next((n for n in model.graph.node if n.domain not in ("", "ai.onnx") and n.op_type not in known), None):
        raise EdgeEmoError(f"{source}: node {node.name or node.output[0]}: {node.domain}:{node.op_type} is no operator of ONNX")


def upgrade(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """At OPSET or later. Raises EdgeEmoError where ONNX's converter does not get it there."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises RuntimeError and its own types
        raise EdgeEmoError(
            f"{source}: opset {version} cannot be brought to {OPSET} ({str(error).splitlines()[0][:200]})"
        ) from error


def _folded(model: onnx.ModelProto, source: str, shapes: dict[str, Shape], batch: int) -> onnx.ModelProto:
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for info in inputs_of(sized):
        set_dims(info, tuple(batch if d == BATCH else d for d in shapes[info.name]))
    for info in sized.graph.output:
        info.type.tensor_type.ClearField("shape")
    del sized.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="edgeemo-") as folder:
        options.optimized_model_filepath = str(Path(folder, "folded.onnx"))
        try:
            onnxruntime.InferenceSession(
                sized.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=UNWANTED
            )
        except Exception as error:  # ONNX Runtime raises types of its own
            said = str(error).replace("\n", " ")[:300]
            raise EdgeEmoError(f"{source}: ONNX Runtime does not run it with {batch} streams ({said})") from error
        folded = onnx.load(options.optimized_model_filepath)
    if branch := next((n for n in folded.graph.node if n.op_type in ("If", "Loop", "Scan")), None):
        raise EdgeEmoError(
            f"{source}: node {branch.name or branch.output[0]}: {branch.op_type} depends on the data; --set may fix it"
        )
    version = next(o.version for o in folded.opset_import if o.domain in ("", "ai.onnx"))
    del folded.opset_import[:]  # of ONNX Runtime's own domains, which no node is of
    folded.opset_import.append(helper.make_opsetid("", version))
    return onnx.shape_inference.infer_shapes(folded, data_prop=True)


def _free_the_batch(small: onnx.ModelProto, large: onnx.ModelProto, source: str) -> None:
    """Rewrites in ``small`` what differs from ``large``."""
    one, other = ({i.name: numpy_helper.to_array(i) for i in m.graph.initializer} for m in (small, large))
    shapes = tuple({v.name: dims(v) for v in (*m.graph.value_info, *m.graph.output)} for m in (small, large))
    for node, twin in zip(small.graph.node, large.graph.node, strict=True):
        for at, (mine, its) in enumerate(zip(node.input, twin.input, strict=True)):
            a, b = one.get(mine), other.get(its)
            if a is None or b is None:
                continue
            same = a.shape == b.shape and np.array_equal(a, b)
            if node.op_type == "Reshape" and at == 1:
                sizes = [(s.get(node.input[0], ()), s.get(node.output[0], ())) for s in shapes]
                free = _any_reshape(*sizes)
                if same and (free is None or free[0] != 0):
                    continue
            elif same:
                continue
            else:
                free = _without_batch(node, at, a, b)
            if free is None:
                raise EdgeEmoError(f"{source}: node {node.name or node.output[0]} ({node.op_type}) holds the batch in a constant")
            name = f"{mine}_any_batch_{node.output[0]}_{at}"
            small.graph.initializer.append(numpy_helper.from_array(free, name))
            node.input[at] = name


def _without_batch(node: onnx.NodeProto, at: int, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """``a`` and ``b``: a constant for SMALL and for LARGE streams. The constant for any number; None where there is none."""
    if node.op_type == "Expand" and at == 1 and a.shape == b.shape:
        return np.where(a != b, 1, a)  # what is expanded has the batch already, or broadcasts where it is used
    if a.ndim == b.ndim:
        axes = [i for i in range(a.ndim) if a.shape[i] != b.shape[i]]
        if len(axes) == 1 and (a == a.take([0], axes[0])).all():  # the same for every stream, as zero states are
            return a.take([0], axes[0])
    return None


def _any_reshape(small: tuple[Shape, Shape], large: tuple[Shape, Shape]) -> np.ndarray | None:
    """What to reshape to, from what it reshapes and its result, for SMALL and for LARGE streams; None where not just one
    dimension of the result has the batch in it. Where both begin with the batch it is copied (0): a compiler can follow that."""
    a, b = small[1], large[1]
    known = len(a) == len(b) > 0 and all(isinstance(d, int) for d in (*a, *b))
    if not known or sum(x != y for x, y in zip(a, b, strict=True)) != 1:
        return None
    first = [shape[:1] for shape in (*small, *large)] == [(SMALL,), (SMALL,), (LARGE,), (LARGE,)]
    return np.array([(0 if first else -1) if x != y else x for x, y in zip(a, b, strict=True)], dtype=np.int64)


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
