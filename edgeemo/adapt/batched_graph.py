"""A graph of one item while its tensors get a batch (vectorize.py): what the rules of operators read and write."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper

from edgeemo.adapt.batch import renamed
from edgeemo.onnxlib.graph import BATCH, Maker, Shape, constants_of, dims, inputs_of, known_types, label, over_items, set_dims

Sizes = tuple[int, ...]


class BatchedGraph:
    """Shapes of one item, which tensors have a batch and in which form, and new nodes.

    A tensor of one item's shape s is stored as (batch, *s), or, where s begins with 1 and it is ``dropped``, as (batch, *s[1:]).
    """

    def __init__(self, model: onnx.ModelProto, source: str) -> None:
        self.model, self.source = model, source
        self.types = known_types(model)
        self.shapes = {n: cast(Sizes, dims(v)) for n, v in self.types.items()}
        self.constants = constants_of(model)
        self.shapes |= {name: value.shape for name, value in self.constants.items()}
        self.dropped: dict[str, bool] = {}  # of every tensor that has a batch: whether it is stored without its leading 1
        self.other_form: dict[str, str] = {}  # the same tensor stored the other way
        self.nodes: list[onnx.NodeProto] = []
        self.node = onnx.NodeProto()  # which is being rewritten
        self.make = Maker(model, "batch")

    def has_batch(self, name: str) -> bool:
        return name in self.dropped

    def shape(self, name: str) -> Sizes:
        """Shape of one item."""
        return self.shapes[name]

    def constant(self, at: int) -> np.ndarray:
        """Value of the node's input ``at``."""
        if self.node.input[at] not in self.constants:
            raise self.refusal(f"its input {self.node.input[at]} is computed")
        return self.constants[self.node.input[at]]

    def begins_with_one(self, name: str) -> bool:
        return self.shapes[name][:1] == (1,)

    def stored(self, name: str, drop: bool) -> str:
        """``name`` with or without its leading 1; a constant as it is."""
        if not self.has_batch(name) or self.dropped[name] == drop:
            return name
        if name not in self.other_form:
            shape = self.shapes[name]
            self.other_form[name] = self.make.reshape(name, [0, *(shape[1:] if drop else shape)])
            self.take()
        return self.other_form[name]

    def at_rank(self, name: str, rank: int) -> str:
        """With its batch in front and ones behind that, to broadcast against tensors of ``rank``."""
        if not self.has_batch(name) or len(shape := self.shapes[name]) >= rank:
            return self.stored(name, drop=False)
        return self.make.reshape(name, [0, *[1] * (rank - len(shape)), *shape])

    def for_all(self, name: str, drop: bool, like: str) -> str:
        """The constant ``name``, the same for every item of ``like``."""
        shape = self.shapes[name][drop:]
        info = helper.make_tensor_value_info(self.stored(like, drop), self._kind(like), [BATCH, *self.shapes[like][drop:]])
        part = self.make.reshape(name, [1, *shape])
        return over_items(self.make, part, self._kind(name), len(shape) + 1, 0, info, 0)

    def emit(self, inputs: list[str], drop: bool, **options: Any) -> None:
        """The node with ``inputs``, and ``options`` for those of its attributes that change (None: it goes)."""
        made = onnx.NodeProto()
        made.CopyFrom(self.node)
        made.input[:] = inputs
        kept = [a for a in made.attribute if a.name not in options]
        del made.attribute[:]
        made.attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in options.items() if v is not None)])
        self.make.nodes.append(made)
        for name in made.output:
            if name:
                self.dropped[name] = drop

    def reshaped(self, value: str) -> None:
        """The node's output has the numbers of ``value`` in their order, in its own shape."""
        (name,) = (n for n in self.node.output if n)
        drop = self.begins_with_one(name)
        shape = self.shapes[name][drop:]
        if self.has_batch(value) and self.shapes[value][self.dropped[value] :] == shape:
            self.make.op("Identity", value, output=name)
        else:
            self.make.reshape(value, [0, *shape], output=name)
        self.dropped[name] = drop

    def refusal(self, why: str) -> EdgeEmoError:
        return EdgeEmoError(
            f"{self.source}: node {label(self.node)} ({self.node.op_type}): {why}; export the file with a dynamic first dimension"
        )

    def _kind(self, name: str) -> int:
        if name in self.constants:
            return helper.np_dtype_to_tensor_dtype(self.constants[name].dtype)
        return self.types[name].type.tensor_type.elem_type

    def is_static(self, name: str) -> bool:
        return name in self.shapes and all(isinstance(d, int) for d in self.shapes[name])

    def take(self) -> None:
        self.nodes += self.make.nodes
        self.make.nodes = []

    def begin_input(self, info: onnx.ValueInfoProto, shape: Shape) -> None:
        at = shape.index(BATCH) if BATCH in shape else None
        set_dims(info, (BATCH, *(d for d in shape if d != BATCH)))
        self.dropped[info.name] = at == 0
        if at:
            inner = f"{info.name}_as_it_was"
            self.make = Maker(self.model, f"{info.name}.batched")
            self.shapes[inner] = self.shapes[info.name]
            self.make.reshape(info.name, [0, *self.shapes[inner]], output=inner)
            self.dropped[inner] = False
            for node in self.model.graph.node:
                node.input[:] = [inner if n == info.name else n for n in node.input]
            self.take()

    def end_output(self, info: onnx.ValueInfoProto) -> None:
        """Outputs are without their leading 1, in the place of which the batch is; a constant is given to every item."""
        name, shape = info.name, self.shapes[info.name]
        drop = shape[:1] == (1,)
        kept = shape[drop:]
        self.make = Maker(self.model, f"{name}.any_batch")
        if not self.has_batch(name) or self.dropped[name] != drop:
            inner = self._renamed(name)
            if self.has_batch(inner):
                self.make.reshape(inner, [0, *kept], output=name)
            else:
                like = inputs_of(self.model)[0]
                one = self.make.reshape(inner, [1, *kept])
                over_items(self.make, one, info.type.tensor_type.elem_type, len(kept) + 1, 0, like, 0, output=name)
            self.take()
        set_dims(info, (BATCH, *kept))

    def _renamed(self, name: str) -> str:
        inner = renamed(self.model, self.nodes, name)
        tables: tuple[dict[str, Any], ...] = (self.dropped, self.other_form, self.shapes)
        for table in tables:
            if name in table:
                table[inner] = table.pop(name)
        return inner
