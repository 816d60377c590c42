"""The node on which native code crashes: ONNX Runtime or onnx aborts on some graphs that their own checkers let through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import onnx
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.onnxlib.graph import label

T = TypeVar("T")
CRASHED = "native code crashed"


def naming_the_crash(model: onnx.ModelProto, what: str, work: Callable[[bytes, str], T]) -> T:
    """``work(serialized model, what)``, which runs native code in a child process. ``what``: of messages.

    Raises EdgeEmoError as ``work`` does, with the first node that crashes by the graph up to it, found by halving.
    """
    try:
        return work(model.SerializeToString(), what)
    except EdgeEmoError as error:
        if CRASHED not in str(error):
            raise
        node = _first(model, lambda part: _crashes(part, what, work))
        if node is None:
            raise
        raise EdgeEmoError(
            f"{what}: node {label(node)} ({node.op_type}): ONNX Runtime or onnx crashes on it; is it a valid one? "
            "Leave it out of the graph, or export it in another way"
        ) from error


def _first(model: onnx.ModelProto, bad: Callable[[bytes], bool]) -> onnx.NodeProto | None:
    good, at = 0, len(model.graph.node)
    if not at or not bad(_part(model, at)):
        return None
    while at - good > 1:
        middle = (good + at) // 2
        good, at = (good, middle) if bad(_part(model, middle)) else (middle, at)
    return model.graph.node[at - 1]


def _part(model: onnx.ModelProto, count: int) -> bytes:
    """The first ``count`` nodes, whose last one's outputs are the graph's; onnx says of what type."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[count:]
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in part.graph.node[-1].output if name)
    return part.SerializeToString()


def _crashes(part: bytes, what: str, work: Callable[[bytes, str], T]) -> bool:
    try:
        work(part, what)
    except EdgeEmoError as error:
        return CRASHED in str(error)
    return False
