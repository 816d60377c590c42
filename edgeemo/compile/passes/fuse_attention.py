"""softmax(q k^T + bias) v over cached tokens -> one attention kernel that reads and writes the caches in place.

Matched from the softmax outwards, as the exporter writes it:

    k = concat(k_state, split(tokens)[1]) -> reshape (B, keys, heads, width) -> permute (0, 2, 3, 1)
    q = split(tokens)[0] or concat(q_state, split(tokens)[0]) -> reshape -> permute (0, 2, 1, 3)
    softmax(matmul(q, k) * scale + mask + distance) [-> multiply(weights) -> sum over queries]
        -> matmul(v) -> permute (0, 2, 1, 3) -> reshape (B, queries, d) [-> quantize]

where the tokens' three parts come from one projection, and each concat's tail is the state's next value. With a
quantize/dequantize pair behind each part of the split, the kernel is the int8 one and the rings hold bytes. An attention that
does not fit keeps TVM's stock operators; its states are then copied, which costs time and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from edgeemo.compile.ir import (
    Expr,
    Graph,
    PassContext,
    Var,
    call_kernel,
    new_var,
    static_shape,
)
from edgeemo.compile.kernels.attention import f32, qs8
from edgeemo.compile.memory.states import StateBindings
from edgeemo.compile.patterns.quantize import end_of_quantize, symmetric_scale
from edgeemo.targets.capabilities import INT8_MAX


@dataclass
class _Tokens:
    """One of q, k, v: where its new rows come from, which state holds its earlier ones, and its scale where it is int8."""

    source: Var
    column: int
    new: int
    state: Var | None
    scale: float | None


@dataclass
class _Match:
    """An attention found: the variable to rebind, the kernel's shape, and the tensors it reads."""

    root: Var
    q: _Tokens
    k: _Tokens
    v: _Tokens
    heads: int
    width: int
    past: int
    score_scale: float
    mask: Expr | None
    distance: np.ndarray | None  # (heads, queries, keys)
    pool: Expr | None
    out_scale: float | None

    @property
    def rings(self) -> list[Var]:
        return [t.state for t in (self.k, self.v, self.q) if t.state is not None]

    @property
    def int8(self) -> bool:
        return all(t.scale is not None for t in (self.q, self.k, self.v)) and self.width % qs8.LANES == 0


def run(graph: Graph, context: PassContext) -> None:
    """Rebinds every attention that fits; notes the state parameters that are now updated in place."""
    states, layout = context.states, context.layout
    softmaxes = [b.var for b in graph.bindings if graph.is_op(b.var, "nn.softmax")]
    matches = [m for m in (_match(graph, states, s) for s in softmaxes) if m is not None]
    for m in matches:  # all layouts before the first kernel: kernels hold the stride from one stream's states to the next
        for ring in m.rings if m.int8 else []:
            layout.resize(states.params[ring], (m.past + m.k.new) * m.heads * m.width + qs8.OVER_READ * m.width)
    for m in matches:
        _emit(graph, context, m)
    context.in_place += [ring for m in matches for ring in m.rings]


def _emit(graph: Graph, context: PassContext, m: _Match) -> None:
    table, layout, states = context.table, context.layout, context.states
    row, new = static_shape(m.q.source)[2] or 0, m.k.new
    quantize, inverse = m.out_scale is not None, 1.0 / (m.out_scale or 1.0)
    shape: dict[str, Any] = {
        "heads": m.heads, "width": m.width, "new": new, "past": m.past, "row": row,
        "q_at": m.q.column, "k_at": m.k.column, "v_at": m.v.column,
        "cached_queries": m.q.state is not None, "mask": m.mask is not None, "distance": m.distance is not None,
        "pooled": m.pool is not None, "state_stride": layout.stride, "quantize": quantize,
        "qmax": graph.qmax.get(m.root, INT8_MAX),
    }  # fmt: skip
    if m.int8:
        assert m.q.scale is not None and m.k.scale is not None and m.v.scale is not None
        distance = None if m.distance is None else np.concatenate([m.distance] * 2, axis=2)
        factors = [m.score_scale * m.q.scale * m.k.scale, m.v.scale * inverse / qs8.WEIGHT_ONE]
        source, ring_tokens = _int8_tokens(graph, m, row), m.past + new
        name = table.add(qs8.AttentionInt8(**shape), qs8.build)
    else:
        distance, factors = m.distance, [inverse] if quantize else []
        source, ring_tokens = m.q.source, m.past
        name = table.add(f32.Attention(**shape, scale=m.score_scale), f32.build)
    biases = [m.mask, None if distance is None else relax.const(distance), m.pool]
    args = [states.slots, states.clock, source, *m.rings, *(x for x in biases if x is not None)]
    args += [relax.const(np.array(factors, np.float32))] if factors else []
    layout.clock_period(ring_tokens // new)
    graph.rebind(m.root, call_kernel(name, args, m.root))


def _int8_tokens(graph: Graph, m: _Match, row: int) -> Var:
    """The projection's output quantized, every column by the scale of its part: the product before it takes that over."""
    scale = np.empty(row, np.float32)
    for t in (m.q, m.k, m.v):
        scale[t.column : t.column + m.heads * m.width] = t.scale
    source = m.q.source
    tokens = new_var("tokens_int8", list(source.ty.shape), "int8")
    zero = relax.const(np.int8(0))
    quantize = relax.op.quantize(source, relax.const(scale), zero, axis=2, out_dtype="int8")
    graph.insert(source, tokens, quantize, m.root)
    return tokens


def _match(graph: Graph, states: StateBindings, softmax: Var) -> _Match | None:
    weights, pool = softmax, None
    product = graph.only_user(softmax)
    _, heads, queries, keys = (d or 0 for d in static_shape(softmax)) if len(static_shape(softmax)) == 4 else (0, 0, 0, 0)
    if product is not None and graph.is_op(product, "multiply"):
        a, b = graph.args(product)
        pool = b if a == softmax else a
        weights = graph.only_user(product)
        if weights is None or not graph.is_op(weights, "sum") or static_shape(weights)[1:] != [heads, 1, keys]:
            return None
        if not isinstance(pool, relax.Var) or static_shape(pool)[1:] != [1, queries, 1]:
            return None
        product = graph.only_user(weights)
    if product is None or not graph.is_op(product, "matmul") or graph.args(product)[0] != weights:
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
    width = static_shape(product)[3] or 0
    past = keys - k.new
    if width % 4 or past <= 0 or past % k.new or queries != (keys if q.state is not None else q.new):
        return None
    sorted_biases = _biases(graph, biases, (heads, queries, keys))
    if sorted_biases is None:
        return None
    scaled = [t.scale is not None for t in (q, k, v)]
    if any(scaled) and not all(scaled):
        return None
    last, out_scale = root, None
    while (user := graph.only_user(last)) is not None and graph.is_op(user, "reshape"):
        last = user
    if user is not None and graph.is_op(user, "quantize"):
        out_scale = symmetric_scale(graph, user)
        if out_scale is None:
            return None
        root = end_of_quantize(graph, user)
    return _Match(root, q, k, v, heads, width, past, scale, *sorted_biases, pool, out_scale)


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


def _tokens(graph: Graph, value: Expr, axes: list[int], states: StateBindings) -> _Tokens | None:
    if not graph.is_op(value, "permute_dims") or [int(a) for a in graph.attrs(value).axes] != axes:
        return None
    rows = graph.arg(graph.args(value)[0], "reshape")
    if rows is None:
        return None
    state = scale = None
    if graph.is_op(rows, "concat"):
        parts = list(graph.args(rows)[0])
        if len(parts) != 2 or parts[0] not in states.rings:
            return None
        state, rows = parts
        # The kernel is the only one to see the window: anyone else would find the ring already written over.
        concat = next(u for u in graph.users[state] if u is not None and graph.is_op(u, "concat"))
        if len(graph.users[state]) != 1 or set(graph.users[concat]) != {graph.args(value)[0], states.next_of[state]}:
            return None
    if graph.is_op(rows, "dequantize"):
        scale, inner = symmetric_scale(graph, rows), graph.args(rows)[0]
        if scale is None or not graph.is_op(inner, "quantize") or symmetric_scale(graph, inner) != scale:
            return None
        rows = graph.args(inner)[0]
    part = graph.value.get(rows)
    if not isinstance(part, relax.TupleGetItem) or not graph.is_op(part.tuple_value, "split"):
        return None
    source = graph.args(part.tuple_value)[0]
    shape = static_shape(rows)
    return _Tokens(source, int(part.index) * (shape[2] or 0), shape[1] or 0, state, scale)


def _biases(graph: Graph, biases: list[Expr], shape: tuple[int, int, int]) -> tuple[Expr | None, np.ndarray | None] | None:
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
            distance = np.ascontiguousarray(np.broadcast_to(array, (1, *shape))[0], dtype=np.float32)
        elif isinstance(bias, relax.Var) and mask is None and static_shape(bias)[1:] == [1, 1, shape[2]]:
            mask = bias
        else:
            return None
    return mask, distance
