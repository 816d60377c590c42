"""Attention of a step's new tokens over a stream's cached ones, read and written in place by slot.

A cache is a ring of ``past`` tokens inside the stream's state row. The stream's clock (steps since it began, int32, wrapping at a
multiple of every ring) says where the oldest token lies, so no cache is shifted, concatenated or copied: the kernel reads the
ring in time order, then writes the new tokens over the oldest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr, kernel
from edgeemo.compile.kernels.specs import KernelSpec
from edgeemo.compile.kernels.vector_math import exp4
from edgeemo.targets.board import KernelTarget
from edgeemo.targets.capabilities import INT8_MAX

LOWEST = -1e30


@dataclass(frozen=True)
class AttentionShape(KernelSpec):
    """Queries, keys and values of the new tokens come from one buffer of ``new`` rows per stream, ``row`` elements wide, at given
    columns; earlier tokens from rings in the stream's state row."""

    kind: ClassVar[str]

    heads: int
    width: int  # per head
    new: int  # tokens per step
    past: int  # earlier tokens that are looked at, a multiple of new
    cached_queries: bool  # the window's earlier tokens ask, too (a third ring)
    row: int
    q_at: int
    k_at: int
    v_at: int
    mask: bool  # (batch, keys) float32, added to every head and query
    distance: bool  # a constant per head, query and key, added to every stream
    pooled: bool  # (batch, queries) float32 weights: the weighted mean over queries is the one row that comes out
    state_stride: int  # float32 words from one slot's states to the next
    quantize: bool = False
    qmax: int = INT8_MAX  # magnitude of the quantized output

    @property
    def name(self) -> str:
        tail = "".join(f"_{t}" for t in ("cached_queries", "pooled", "quantize") if getattr(self, t))
        return f"attention_{self.kind}_h{self.heads}_new{self.new}_past{self.past}{tail}"

    @property
    def keys(self) -> int:
        return self.past + self.new

    @property
    def queries(self) -> int:
        return self.keys if self.cached_queries else self.new

    @property
    def macs(self) -> int:
        return (self.queries + (1 if self.pooled else self.queries)) * self.keys * self.heads * self.width


@dataclass(frozen=True)
class Attention(AttentionShape):
    """In float32: rings of ``past`` tokens, distances (heads, queries, keys)."""

    kind: ClassVar[str] = "f32"
    scale: float = 1.0  # of the scores


def softmax_exponentials(b: Builder, scores: Expr, padded: int) -> Expr:
    """Turns ``padded`` scores into exp(score - max) where they are; returns 1 / their sum as a float32x4."""
    running = b.scratch(4)  # registers, once LLVM has seen it

    def largest(j: Expr) -> None:
        b.store(running, b.maximum(b.load(running, 0), b.load(scores, j)), 0)

    def exponential(j: Expr) -> None:
        p = exp4(b, b.load(scores, j) - top)
        b.store(scores, p, j)
        b.store(running, b.load(running, 0) + p, 0)

    b.store(running, b.load(scores, 0), 0)
    b.for_each_vector(padded, largest)
    top = b.bind(T.Broadcast(b.bind(b.max4(b.load(running, 0))), 4))
    b.store(running, b.splat(0.0), 0)
    b.for_each_vector(padded, exponential)
    return b.bind(b.splat(T.float32(1.0) / b.sum4(b.load(running, 0))))


class _Emitter:
    def __init__(self, spec: Attention, b: Builder) -> None:
        self.spec, self.b, self.d = spec, b, spec.heads * spec.width
        self.vectors = spec.width // 4
        dtypes = {"slots": "int32", "clock": "int32", "tokens": "float32", "k_ring": "float32", "v_ring": "float32"}
        dtypes |= {"q_ring": "float32"} if spec.cached_queries else {}
        dtypes |= {"mask": "float32"} if spec.mask else {}
        dtypes |= {"distance": "float32"} if spec.distance else {}
        dtypes |= {"pooled": "float32"} if spec.pooled else {}
        dtypes |= {"out_inverse_scale": "float32", "out": "int8"} if spec.quantize else {"out": "float32"}
        pointers = b.pointers(dtypes)
        self.slots, self.clock, self.tokens, self.out = (pointers[n] for n in ("slots", "clock", "tokens", "out"))
        self.rings = {which: pointers[f"{which}_ring"] for which in "kvq" if f"{which}_ring" in pointers}
        self.pool: Expr = pointers.get("pooled")
        self.mask, self.distance = (pointers.get(n) for n in ("mask", "distance"))
        self.inverse = pointers.get("out_inverse_scale")
        self.column = {"q": spec.q_at, "k": spec.k_at, "v": spec.v_at}

    def body(self, batch: Expr) -> None:
        spec, b = self.spec, self.b
        with T.serial(0, batch) as stream:
            self.stream = stream
            slot = b.bind(self.slots[stream])
            self.state = b.bind(slot * spec.state_stride)
            self.oldest = b.bind(self.clock[self.state] * spec.new % spec.past)
            self.padded = -(-(spec.keys) // 4) * 4
            self.scores = b.scratch(self.padded)
            self.mean = b.scratch(self.padded) if spec.pooled else None
            with T.serial(0, spec.heads) as head:
                if spec.pooled:
                    b.for_each_vector(self.padded, lambda j: b.store(self.mean, b.splat(0.0), j))
                if spec.cached_queries:
                    with T.serial(0, spec.past) as i:
                        self._query(self.rings["q"], self._ring_at(i) + head * spec.width, head, i)
                with T.serial(0, spec.new) as i:
                    self._query(self.tokens, self._token_at("q", i) + head * spec.width, head, spec.queries - spec.new + i)
                if spec.pooled:
                    b.for_each_vector(self.padded, lambda j: b.store(self.scores, b.load(self.mean, j), j))
                    self._values(head, b.splat(1.0), b.bind(stream * self.d + head * spec.width))
            self._write_rings()

    def _ring_at(self, age: Expr) -> Expr:
        """First word of the cached token that is ``age`` after the oldest."""
        past = self.spec.past
        place = self.b.bind(self.oldest + age)
        return self.b.bind(self.state + T.Select(place >= past, place - past, place) * self.d)

    def _token_at(self, which: str, i: Expr) -> Expr:
        spec = self.spec
        return self.b.bind((self.stream * spec.new + i) * spec.row + self.column[which])

    def _each_key(self, which: str, head: Expr, visit) -> None:  # type: ignore[no-untyped-def]
        """Calls visit(buffer, first word, key index) inside a loop over the window in time order."""
        spec = self.spec
        with T.serial(0, spec.past) as j:
            visit(self.rings[which], self._ring_at(j) + head * spec.width, j)
        with T.serial(0, spec.new) as j:
            visit(self.tokens, self._token_at(which, j) + head * spec.width, j + spec.past)

    def _query(self, source: Expr, at: Expr, head: Expr, i: Expr) -> None:
        spec, b = self.spec, self.b
        keys = spec.keys
        q = [b.load(source, at + 4 * v) for v in range(self.vectors)]

        def score(buffer: Expr, word: Expr, j: Expr) -> None:
            sums = [b.bind(q[v] * b.load(buffer, word + 4 * v)) for v in range(min(4, self.vectors))]
            for v in range(4, self.vectors):
                sums[v % 4] = b.bind(b.fma(q[v], b.load(buffer, word + 4 * v), sums[v % 4]))
            total = sums[0]
            for extra in sums[1:]:
                total = b.bind(total + extra)
            value = b.sum4(total) * T.float32(spec.scale)
            if self.mask is not None:
                value = value + self.mask[self.stream * keys + j]
            if self.distance is not None:
                value = value + self.distance[(head * spec.queries + i) * keys + j]
            b.store(self.scores, value, j, 1)

        self._each_key("k", head, score)
        for j in range(keys, self.padded):
            b.store(self.scores, T.float32(LOWEST), j, 1)
        inverse_sum = softmax_exponentials(b, self.scores, self.padded)
        if not spec.pooled:
            self._values(head, inverse_sum, b.bind((self.stream * spec.queries + i) * self.d + head * spec.width))
            return
        factor = b.bind(inverse_sum * T.Broadcast(self.pool[self.stream * spec.queries + i], 4))
        b.for_each_vector(
            self.padded, lambda j: b.store(self.mean, b.fma(b.load(self.scores, j), factor, b.load(self.mean, j)), j)
        )

    def _values(self, head: Expr, factor: Expr, out_at: Expr) -> None:
        """The window's values, weighted by the scores and summed, times ``factor``, to one row of one head."""
        spec, b = self.spec, self.b
        y = b.scratch(spec.width)
        for v in range(self.vectors):
            b.store(y, b.splat(0.0), 4 * v)

        def accumulate(buffer: Expr, word: Expr, j: Expr) -> None:
            p = b.bind(T.Broadcast(self.scores[j], 4))
            for v in range(self.vectors):
                b.store(y, b.fma(p, b.load(buffer, word + 4 * v), y[T.Ramp(4 * v, 1, 4)]), 4 * v)

        self._each_key("v", head, accumulate)
        if self.inverse is not None:
            factor = b.bind(factor * T.Broadcast(self.inverse[0], 4))
        step = 4 if self.inverse is not None and self.vectors % 4 == 0 else 1
        for v in range(0, self.vectors, step):
            values = [b.bind(b.load(y, 4 * (v + i)) * factor) for i in range(step)]
            b.store(self.out, values[0] if self.inverse is None else b.to_int8(values, spec.qmax), out_at + 4 * v, 4 * step)

    def _write_rings(self) -> None:
        b = self.b
        for which, ring in self.rings.items():
            with T.serial(0, self.spec.new) as i:
                # new divides past and the oldest is at a multiple of new: the new tokens lie in one piece
                to = b.bind(self.state + (self.oldest + i) * self.d)
                source = self._token_at(which, i)
                with T.serial(0, self.d // 4) as v:
                    b.store(ring, b.load(self.tokens, source + 4 * v), to + 4 * v)


def build(spec: Attention, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, slots, clock, tokens, k_ring, v_ring, [q_ring], [mask], [distance], [pool weights],
    [out_inverse_scale], out)."""
    with kernel(spec.name, target) as (b, batch):
        _Emitter(spec, b).body(batch)
    return b.result
