"""Activations of a value in a graph, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import relax, tirx

from edgeemo.compile.ir import Graph
from edgeemo.compile.patterns import activation

Op = Callable[[Any], Any]


def number(value: float) -> Any:
    return relax.const(np.float32(value))


def at_most(value: float) -> Op:
    return lambda x: relax.op.minimum(x, number(value))


def at_least(value: float) -> Op:
    return lambda x: relax.op.maximum(x, number(value))


def times(value: float) -> Op:
    return lambda x: relax.op.multiply(number(value), x)


def plus(value: float) -> Op:
    return lambda x: relax.op.add(x, number(value))


def found(chain: list[Op], gated: bool) -> str:
    """The activation of a value that goes through ``chain``, or through that and is multiplied with the result."""
    build = relax.BlockBuilder()
    data = relax.Var("data", relax.TensorType([tirx.Var("n", "int64"), 4], "float32"))
    with build.function("main", [data]):
        with build.dataflow():
            root = build.emit(relax.op.negative(data))
            value = root
            for op in chain:
                value = build.emit(op(value))
            if gated:
                value = build.emit(relax.op.multiply(root, value))
            end = build.emit_output(relax.op.negative(value))
        build.emit_func_output(end)
    graph = Graph(build.get())
    matched = activation.find(graph, next(b.var for b in graph.bindings))
    return "" if matched is None else matched[0]


@pytest.mark.parametrize(
    ("chain", "gated", "name"),
    [
        ([at_least(0), at_most(6)], False, "relu6"),
        ([at_most(6), at_least(0)], False, "relu6"),
        ([at_most(3), at_least(0), at_most(6)], False, ""),  # the lower bound counts
        ([at_least(0), times(3), at_most(6)], False, ""),
        ([at_least(1), at_most(6)], False, ""),
        ([plus(1), at_least(0), at_most(6)], False, ""),
        ([plus(3), at_least(0), at_most(6), times(1 / 6)], True, "hard_swish"),
        ([times(1 / 6), plus(0.5), at_least(0), at_most(1)], True, "hard_swish"),
        ([plus(3), at_least(0), at_most(6)], True, ""),  # six times that
        ([plus(2), at_least(0), at_most(6), times(1 / 6)], True, ""),
        ([plus(3), at_least(0), times(1 / 6), at_most(1)], True, ""),  # the same, but no exporter's way
        ([relax.op.sigmoid], True, "silu"),
        ([relax.op.sigmoid], False, ""),
        ([relax.op.nn.relu], False, "relu"),
    ],
)
def test_activation_is_found_for_what_it_is(chain: list[Op], gated: bool, name: str) -> None:
    assert found(chain, gated) == name
