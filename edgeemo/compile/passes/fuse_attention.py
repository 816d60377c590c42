"""softmax(q k^T + bias) v over cached tokens -> one attention kernel that reads and writes the caches in place.

Matched from the softmax outwards, as the exporter writes it:

    k = concat(k_state, split(tokens)[1]) -> reshape (B, keys, heads, width) -> permute (0, 2, 3, 1)
    q = split(tokens)[0] or concat(q_state, split(tokens)[0]) -> reshape -> permute (0, 2, 1, 3)
    softmax(matmul(q, k) * scale + mask + distance) -> matmul(v) -> permute (0, 2, 1, 3) -> reshape (B, queries, d) [-> quantize]

where the tokens' three parts come from one projection, and each concat's tail is the state's next value. An attention that does
not fit keeps TVM's stock operators; its states are then copied, which costs time and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from edgeemo.compile.kernels import attention
from edgeemo.compile.passes.graph import (
    Expr,
    Graph,
    KernelTable,
    Var,
    call_kernel,
    static_shape,
)
from edgeemo.compile.plan import StatePlan


@dataclass
class _Tokens:
    """One of q, k, v: where its new rows come from and which state holds its earlier ones."""

    source: Var
    column: int
    new: int
    state: Var | None


def run(graph: Graph, table: KernelTable, states: StatePlan) -> list[Var]:
    """Rebinds every attention that fits. Returns the state parameters that are now updated in place."""
    in_place: list[Var] = []
    for binding in list(graph.bindings):
        if graph.is_op(binding.var, "nn.softmax"):
            in_place += _match(graph, table, states, binding.var) or []
    return in_place


def _match(graph: Graph, table: KernelTable, states: StatePlan, softmax: Var) -> list[Var] | None:
    product = graph.only_user(softmax)
    if product is None or not graph.is_op(product, "matmul") or graph.args(product)[0] != softmax:
        return None
    back = graph.only_user(product)
    if back is None or not graph.is_op(back, "permute_dims") or [int(a) for a in graph.attrs(back).axes] != [0, 2, 1, 3]:
        return None
    root = graph.only_user(back)
    if root is None or not graph.is_op(root, "reshape"):
        return None
    scores = _scores(graph, graph.args(softmax)[0])
    if scores is None:
        return None
    q_side, k_side, scale, biases = scores
    q = _tokens(graph, q_side, [0, 2, 1, 3], states)
    k = _tokens(graph, k_side, [0, 2, 3, 1], states)
    v = _tokens(graph, graph.args(product)[1], [0, 2, 1, 3], states)
    if q is None or k is None or v is None or k.state is None or v.state is None:
        return None
    if not (q.source == k.source == v.source and q.new == k.new == v.new):
        return None
    _, heads, queries, keys = (d or 0 for d in static_shape(softmax))
    width = static_shape(product)[3] or 0
    past = keys - k.new
    if width % 4 or past <= 0 or past % k.new or queries != (keys if q.state is not None else q.new):
        return None
    sorted_biases = _biases(graph, biases, (heads, queries, keys))
    if sorted_biases is None:
        return None
    mask, distance = sorted_biases
    last = graph.only_user(root)
    quantize = last is not None and graph.is_op(last, "quantize")
    spec = attention.Attention(
        heads, width, k.new, past, q.state is not None, static_shape(q.source)[2] or 0, q.column, k.column, v.column, scale,
        mask is not None, distance is not None, states.stride, quantize,
    )  # fmt: skip
    used = [s for s in (k.state, v.state, q.state) if s is not None]
    args: list[Expr] = [states.slots, states.clock, q.source, *used]
    args += [a for a in (mask, distance) if a is not None]
    if quantize:
        root, scale_of = last, graph.scalar(graph.args(last)[1])
        if scale_of is None:
            return None
        args.append(relax.const(np.array([1.0 / scale_of], np.float32)))
    states.clock_period(past // k.new)
    graph.rebind(root, call_kernel(table.add(spec, attention.build), args, root))
    return used


def _scores(graph: Graph, value: Expr) -> tuple[Expr, Expr, float, list[Expr]] | None:
    """(q, k, scale, biases) of matmul(q, k) * scale + biases, in any order of the sums."""
    biases: list[Expr] = []
    scale = 1.0
    while True:
        if graph.is_op(value, "add"):
            a, b = graph.args(value)
            value, bias = (a, b) if _leads_to_matmul(graph, a) else (b, a)
            biases.append(bias)
        elif graph.is_op(value, "multiply"):
            a, b = graph.args(value)
            factor = graph.scalar(b)
            if factor is None:
                return None
            value, scale = a, scale * factor
        elif graph.is_op(value, "matmul"):
            q, k = graph.args(value)
            return q, k, scale, biases
        else:
            return None


def _leads_to_matmul(graph: Graph, value: Expr) -> bool:
    while graph.is_op(value, "multiply") or graph.is_op(value, "add"):
        value = graph.args(value)[0]
    return graph.is_op(value, "matmul")


def _tokens(graph: Graph, value: Expr, axes: list[int], states: StatePlan) -> _Tokens | None:
    if not graph.is_op(value, "permute_dims") or [int(a) for a in graph.attrs(value).axes] != axes:
        return None
    rows = graph.arg(graph.args(value)[0], "reshape")
    if rows is None:
        return None
    state = None
    if graph.is_op(rows, "concat"):
        parts = list(graph.args(rows)[0])
        if len(parts) != 2 or parts[0] not in states.rings:
            return None
        state, rows = parts
        # The kernel is the only one to see the window: anyone else would find the ring already written over.
        concat = next(u for u in graph.users[state] if u is not None and graph.is_op(u, "concat"))
        if len(graph.users[state]) != 1 or set(graph.users[concat]) != {graph.args(value)[0], states.next_of[state]}:
            return None
    part = graph.value.get(rows)
    if not isinstance(part, relax.TupleGetItem) or not graph.is_op(part.tuple_value, "split"):
        return None
    source = graph.args(part.tuple_value)[0]
    shape = static_shape(rows)
    return _Tokens(source, int(part.index) * (shape[2] or 0), shape[1] or 0, state)


def _biases(graph: Graph, biases: list[Expr], shape: tuple[int, int, int]) -> tuple[Expr | None, Expr | None] | None:
    """Sorts biases into (mask (B, 1, 1, keys), constant (heads, queries, keys)); None if one is neither."""
    mask = distance = None
    pending = list(biases)
    while pending:
        bias = pending.pop()
        if graph.is_op(bias, "add"):
            pending += graph.args(bias)
            continue
        array = graph.constant(bias)
        if array is not None and distance is None:
            distance = relax.const(np.ascontiguousarray(np.broadcast_to(array, (1, *shape))[0], dtype=np.float32))
        elif isinstance(bias, relax.Var) and mask is None and static_shape(bias)[1:] == [1, 1, shape[2]]:
            mask = bias
        else:
            return None
    return mask, distance
