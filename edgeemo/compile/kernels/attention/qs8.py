"""Attention with queries, keys and values in int8: rings of bytes in the stream's state row, a quarter of what float32 takes.

Scores are int8 dot products (SMULL + SADALP per eight products: -128 on both sides is exact, which pairing products in int16 as
the matrix products do would not be). The softmax is float32. Its weights enter the product with the values as int16 in units of
1 / 16384 (SMLAL), which is finer than int8 values can tell.

A ring holds the whole window, new tokens included: they are written over the ones that have left it, then the ring is read in
the order it lies in, which is that of time but for a turn. What goes by a token's age (mask, distances, pool weights) is kept
twice over, so that the turned view of it is a slice. The layout is (heads, window, width): what one head reads lies in one piece,
and the core's prefetcher follows it from head to head. With a token's heads side by side, or in the order of time, lines were
misses to DRAM. A step brings every ring in anew: a head's values are asked for while its scores are computed, the next head's
keys while the values are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.attention.f32 import LOWEST, AttentionShape, softmax_exponentials
from edgeemo.compile.kernels.builder import Builder, Expr, kernel
from edgeemo.targets.board import KernelTarget

WEIGHT_ONE = 16384.0  # the int16 weight of probability 1
LANES = 16
OVER_READ = 3  # keys that the last group of four may read behind a ring


@dataclass(frozen=True)
class AttentionInt8(AttentionShape):
    """In int8: rings of ``past`` + ``new`` tokens, ``width`` a multiple of 16, distances of the window twice over
    (heads, queries, 2 * keys)."""

    kind: ClassVar[str] = "s8"


class _Emitter:
    def __init__(self, spec: AttentionInt8, b: Builder) -> None:
        self.spec, self.b, self.d = spec, b, spec.heads * spec.width
        self.padded = -(-spec.keys // 4) * 4
        self.chunks = spec.width // LANES
        dtypes = {"slots": "int32", "clock": "int32", "tokens": "int8", "k_ring": "int8", "v_ring": "int8"}
        dtypes |= {"q_ring": "int8"} if spec.cached_queries else {}
        for name in ("mask", "distance", "pooled"):
            dtypes |= {name: "float32"} if getattr(spec, name) else {}
        dtypes |= {"factors": "float32", "out": "int8" if spec.quantize else "float32"}
        p = b.pointers(dtypes)
        self.slots, self.clock, self.tokens, self.out = (p[n] for n in ("slots", "clock", "tokens", "out"))
        self.rings = {which: p[f"{which}_ring"] for which in "kvq" if f"{which}_ring" in p}
        self.mask, self.distance, self.pool = (p.get(n) for n in ("mask", "distance", "pooled"))
        self.turned_mask: Expr = None
        self.turned_pool: Expr = None
        self.column = {"q": spec.q_at, "k": spec.k_at, "v": spec.v_at}
        self.score_factor = b.bind(T.Broadcast(p["factors"][0], 4))
        self.out_factor = b.bind(T.Broadcast(p["factors"][1], 4))

    def body(self, batch: Expr) -> None:
        spec, b = self.spec, self.b
        self.scores = b.scratch(self.padded)
        self.weights = b.scratch(self.padded, "int16")
        self.mean = b.scratch(self.padded) if spec.pooled else None
        with T.serial(0, batch) as stream:
            self.stream = stream
            row = b.bind(self.slots[stream] * spec.state_stride)
            self.state = b.bind(row * 4)
            newest = b.bind(self.clock[row] * spec.new % spec.keys)
            following = T.min(stream + 1, batch - 1)
            self.next_state = b.bind(self.slots[following] * (spec.state_stride * 4))
            # The token in place p is (p + turn) % keys after the oldest, which is p + turn in what is kept twice over.
            self.turn = b.bind(spec.keys - (newest + spec.new) % spec.keys)
            self._write(newest)
            self.turned_mask = self._twice(self.mask)
            self.turned_pool = self._twice(self.pool)
            with T.serial(0, spec.heads) as head:
                if spec.pooled:
                    b.for_each_vector(self.padded, lambda j: b.store(self.mean, b.splat(0.0), j))
                with T.serial(0, spec.queries) as i:
                    self._query(head, i)
                    if not spec.pooled:
                        self._values(head, b.bind((stream * spec.queries + i) * self.d + head * spec.width))
                if spec.pooled:
                    b.for_each_vector(self.padded, lambda j: self._set_weights(j, b.load(self.mean, j)))
                    self._values(head, b.bind(stream * self.d + head * spec.width))

    def _twice(self, buffer: Expr | None) -> Expr | None:
        if buffer is None:
            return None
        keys = self.spec.keys
        twice = self.b.scratch(2 * keys)

        def copy(j: Expr, lanes: int) -> None:
            value = self.b.load(buffer, self.stream * keys + j, lanes)
            self.b.store(twice, value, j, lanes)
            self.b.store(twice, value, j + keys, lanes)

        whole = keys // 4 * 4
        self.b.for_each_vector(whole, lambda j: copy(j, 4))
        for j in range(whole, keys):
            copy(j, 1)
        return twice

    def _write(self, newest: Expr) -> None:
        spec, b = self.spec, self.b
        for which, ring in self.rings.items():
            with T.serial(0, spec.new) as i:
                source = self._token(which, i)
                with T.serial(0, spec.heads) as head:
                    to = b.bind(self.state + (head * spec.keys + newest + i) * spec.width)
                    for c in range(0, spec.width, LANES):
                        b.store(ring, b.load(self.tokens, source + head * spec.width + c, LANES), to + c, LANES)

    def _token(self, which: str, i: Expr) -> Expr:
        spec = self.spec
        return self.b.bind((self.stream * spec.new + i) * spec.row + self.column[which])

    def _ring(self, place: Expr, head: Expr) -> Expr:
        """First byte of a head's part of the token in ``place``."""
        return self.b.bind(self.state + (head * self.spec.keys + place) * self.spec.width)

    def _query(self, head: Expr, i: Expr) -> None:
        """The softmax of one query over the window: into ``weights``, or added to ``mean``."""
        spec, b = self.spec, self.b
        source, at = (
            (self.rings["q"], self._ring(i, head))
            if spec.cached_queries
            else (self.tokens, b.bind(self._token("q", i) + head * spec.width))
        )
        q = [b.load(source, at + c * LANES, LANES) for c in range(self.chunks)]
        with T.serial(0, self.padded // 4) as group:
            # Beyond the ring the last group reads what follows it in the state row; those scores are overwritten.
            first = self._ring(group * 4, head)
            keys = [first + j * spec.width for j in range(4)]
            if spec.queries == 1:  # several would ask several times
                b.prefetch(self.rings["v"], first, 4 * spec.width)
            sums = [b.zeros("int32", 4)] * 4
            for c in range(self.chunks):
                for j in range(4):
                    sums[j] = b.dot16(sums[j], q[c], b.load(self.rings["k"], keys[j] + c * LANES, LANES))
            b.store(self.scores, b.cast(b.sums_of(sums), "float32x4") * self.score_factor, group * 4)
        self._add_biases(head, i)
        total = softmax_exponentials(b, self.scores, self.padded)
        if spec.pooled:
            total = b.bind(total * T.Broadcast(self.turned_pool[i + self.turn], 4))

        def weigh(j: Expr) -> None:
            p = b.load(self.scores, j)
            if spec.pooled:
                b.store(self.mean, b.fma(p, total, b.load(self.mean, j)), j)
            else:
                self._set_weights(j, p * total)

        b.for_each_vector(self.padded, weigh)

    def _add_biases(self, head: Expr, i: Expr) -> None:
        spec, b = self.spec, self.b
        whole = spec.keys // 4 * 4
        biases = [(self.turned_mask, self.turn)] if self.turned_mask is not None else []
        biases += [(self.distance, (head * spec.queries + i) * 2 * spec.keys + self.turn)] if self.distance is not None else []
        for buffer, start in biases:
            first = b.bind(start)

            def add(j: Expr, lanes: int = 4, buffer: Expr = buffer, first: Expr = first) -> None:
                b.store(self.scores, b.load(self.scores, j, lanes) + b.load(buffer, first + j, lanes), j, lanes)

            b.for_each_vector(whole, add)
            for j in range(whole, spec.keys):
                add(j, 1)
        for j in range(spec.keys, self.padded):
            b.store(self.scores, T.float32(LOWEST), j, 1)

    def _set_weights(self, j: Expr, p: Expr) -> None:
        b = self.b
        b.store(self.weights, b.cast(b.round_to_int32(b.bind(p * b.splat(WEIGHT_ONE))), "int16x4"), j)

    def _values(self, head: Expr, out_at: Expr) -> None:
        """The ring's values, weighted and summed, to one row of one head."""
        spec, b = self.spec, self.b
        sums = b.scratch(spec.width, "int32")
        for v in range(0, spec.width, 4):
            b.store(sums, b.zeros("int32", 4), v)
        following = b.bind(T.Select(head + 1 < spec.heads, self._ring(0, head + 1), self.next_state))
        with T.serial(0, spec.keys) as j:
            b.prefetch(self.rings["k"], following + j * spec.width, spec.width)
            weight = b.bind(b.cast(T.Broadcast(self.weights[j], 4), "int32x4"))
            at = self._ring(j, head)
            for c in range(self.chunks):
                value = b.load(self.rings["v"], at + c * LANES, LANES)
                for part in range(4):
                    four = b.cast(b.quarter(value, part), "int32x4")
                    to = c * LANES + part * 4
                    b.store(sums, sums[T.Ramp(to, 1, 4)] + four * weight, to)
        for c in range(self.chunks):
            rows = [b.bind(b.cast(b.load(sums, c * LANES + 4 * v), "float32x4") * self.out_factor) for v in range(4)]
            if spec.quantize:
                b.store(self.out, b.to_int8(rows, spec.qmax), out_at + c * LANES, LANES)
            else:
                for v, row in enumerate(rows):
                    b.store(self.out, row, out_at + c * LANES + 4 * v)


def build(spec: AttentionInt8, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, slots, clock, tokens, k_ring, v_ring, [q_ring], [mask], [distance], [pool weights], factors, out).

    ``factors`` are two float32: scores per int32 of a dot product, and output per int32 of the weighted sum.
    """
    with kernel(spec.name, target) as (b, batch):
        _Emitter(spec, b).body(batch)
    return b.result
