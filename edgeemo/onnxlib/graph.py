"""Queries and edits of ONNX graphs: inputs, dimensions, attributes, constants, new nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

BATCH = "batch"
Shape = tuple[int | str, ...]


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Those that are no constants; old files list initializers among the inputs."""
    constants = {i.name for i in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in constants]


def dims(value: onnx.ValueInfoProto) -> Shape:
    """An int, or the name of a dimension; "?" where it has neither."""
    return tuple(d.dim_param or (d.dim_value if d.dim_value > 0 else "?") for d in value.type.tensor_type.shape.dim)


def set_dims(value: onnx.ValueInfoProto, shape: Shape) -> None:
    value.type.tensor_type.shape.ClearField("dim")
    for size in shape:
        value.type.tensor_type.shape.dim.add(**({"dim_param": size} if isinstance(size, str) else {"dim_value": size}))
    if not shape:
        value.type.tensor_type.shape.SetInParent()


def sized(model: onnx.ModelProto, shapes: dict[str, Shape], batch: int) -> onnx.ModelProto:
    """A copy with inputs of ``shapes`` for ``batch`` items, and no other shape said."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for info in inputs_of(made):
        set_dims(info, tuple(batch if d == BATCH else d for d in shapes[info.name]))
    for info in made.graph.output:
        info.type.tensor_type.ClearField("shape")
    del made.graph.value_info[:]
    return made


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def label(node: onnx.NodeProto) -> str:
    """Name of a node in messages."""
    return node.name or next((o for o in node.output if o), node.op_type)


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def without_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """In place: without nodes that nobody reads, and constants likewise."""
    wanted = {o.name for o in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input) | _read_inside(node)
    held = [onnx.TensorProto.FromString(i.SerializeToString()) for i in model.graph.initializer if i.name in wanted]
    replace_nodes(model, kept[::-1])
    del model.graph.initializer[:]
    model.graph.initializer.extend(held)
    return model


def _read_inside(node: onnx.NodeProto) -> set[str]:
    """Names that a node's subgraphs read, their own included."""
    found: set[str] = set()
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                found |= set(inner.input) | _read_inside(inner)
            found |= {o.name for o in graph.output}
    return found


def known_types(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """By tensor name, with shapes where onnx infers them."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}


class Maker:
    """New nodes and constants of one rewrite; names begin with ``name`` and are not used twice."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self.model, self.name = model, name
        self.nodes: list[onnx.NodeProto] = []
        self._count = 0

    def constant(self, value: Any, dtype: Any = None) -> str:
        array = np.asarray(value, dtype=dtype)
        if array.dtype == np.int_ or (dtype is None and array.dtype.kind == "i"):
            array = array.astype(np.int64)
        name = self._fresh("constant")
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, output: str | None = None, **options: Any) -> str:
        """The output's name: ``output``, or a new one. The node that makes ``output`` is named as the node it stands for."""
        return self.ops(kind, *inputs, outputs=[output or self._fresh(kind.lower())], **options)[0]

    def ops(self, kind: str, *inputs: str, outputs: Sequence[str] | int, **options: Any) -> list[str]:
        made = [self._fresh(kind.lower()) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=made[0], **options))
        return made

    def reshape(self, value: str, shape: Sequence[int], output: str | None = None) -> str:
        return self.op("Reshape", value, self.constant(shape, np.int64), output=output)

    def slice(self, value: str, axis: int, start: int, end: int, step: int = 1, output: str | None = None) -> str:
        return self.op("Slice", value, *(self.constant([v], np.int64) for v in (start, end, axis, step)), output=output)

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{self.name}.{kind}{self._count}"


def over_items(make: Maker, part: str, kind: int, rank: int, axis: int, like: onnx.ValueInfoProto, at: int,
               output: str | None = None) -> str:  # fmt: skip
    """``part`` (of one item: size 1 at ``axis`` of ``rank``, element type ``kind``) for as many items as ``like`` has at ``at``.

    A selection that is never of ``like``: it has the batch without computing a shape, which no compiled step could.
    """
    size = len(dims(like))
    others = [i for i in range(size) if i != at]
    one = like.name
    if others:
        bounds = [make.constant([v] * len(others), np.int64) for v in (0, 1)]
        one = make.op("Slice", one, *bounds, make.constant(others, np.int64))
    one = make.reshape(one, [-1 if i == axis else 1 for i in range(rank)])
    if like.type.tensor_type.elem_type != kind:
        one = make.op("Cast", one, to=kind)
    return make.op("Where", make.constant(np.zeros([1] * rank, dtype=bool)), one, part, output=output)
