"""Epilogue of a matrix product's tile: offset, scale and bias, activation, residual, requantization, and the store.

One list of operations (``ops``) with two drivers: ``apply`` runs it at once, on rows by turns; a deferred epilogue (gemm.py)
hands it row by row to the interleaver, among the multiplications of the next tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.interleave import (
    ConstantsInMemory,
    InRegisters,
    OpStream,
    Reload,
    SpillSlots,
    requantize_ops,
    round_robin,
)
from edgeemo.compile.kernels.microkernels.qs8_neon_mlal_4x4c16 import HALVES
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.compile.kernels.vector_math import activation_cost, activation_ops
from edgeemo.targets.capabilities import round_up

SPILL_SLOTS = 40  # of a kernel, besides constants
MOST_VECTORS = 2  # of a row, whose epilogue is applied together


@dataclass(frozen=True)
class DeferredTile:
    """The tile whose epilogue is yet to come, for tiles of so many rows."""

    rows: int
    exists: Expr  # whether there are such tiles at all
    position: Expr  # int32 x 2: the tile's first element of the output, and of scale and bias
    acc: Expr  # its sums as the micro-kernel leaves them, where it does
    sums: int  # first spill slot with its sums


class Epilogue:
    """``pointers``: the kernel's parameters by name; those that the spec does not have are absent."""

    def __init__(self, spec: Gemm, b: Builder, pointers: dict[str, Expr]) -> None:
        self.spec, self.b = spec, b
        self.out = pointers["out"]
        self.offset, self.scale, self.bias, self.residual = (pointers.get(n) for n in ("offset", "scale", "bias", "residual"))
        self.out_words = b.view("out", "int32") if spec.quantize else None
        inverse = pointers.get("out_inverse_scale")
        self.inverse = b.bind(T.Broadcast(inverse[0], 4)) if inverse is not None else None
        self.between, self.bias_slots = InRegisters(b), list(range(MOST_VECTORS))  # of epilogues that are applied at once

    @property
    def ops_per_row(self) -> int:
        """Operations that ``row_ops`` yields; were it off, the interleaver would spread them a little less evenly."""
        spec = self.spec
        activation, _ = activation_cost(spec.activation, quantized=True)
        rescaled = self.inverse is not None and spec.activation in ("", "relu")
        return 5 + (activation and activation + 1) + 2 * (spec.residual or rescaled) + 3 * spec.quantize + spec.winograd

    # -- deferred --------------------------------------------------------------------------------------------------------
    def allocate_spill_slots(self) -> SpillSlots:
        """Memory of deferred epilogues, with the constants that the activation loads. At the kernel's beginning."""
        self.spill = SpillSlots(self.b, self._activation_constants(), SPILL_SLOTS)
        self.inverse_slot = None if self.inverse is None else self.spill.allocate(1)
        self.column_slots = [self.spill.allocate(1) for _ in range(3)]  # scale, bias and offset of the deferred tile's columns
        return self.spill

    def _activation_constants(self) -> tuple[float, ...]:
        return activation_cost(self.spec.activation, self.spec.quantize and not self.spec.residual)[1]

    def store_constants(self) -> None:
        self.spill.store_constants()
        if self.inverse is not None:
            self.spill.store(self.inverse, self.inverse_slot)

    def deferred_ops(self, tile: DeferredTile, between: InRegisters) -> Callable[[Expr], OpStream]:
        """Loads what the deferred tile's rows share; returns the operations of a row. Before the first tile there is none: its
        result goes to the place of the first, and is written over."""
        b, spill, spec = self.b, self.spill, self.spec
        at, padded = (b.load(tile.position, i, 1) for i in range(2))
        scale = spill.store(b.load(self.scale, padded), self.column_slots[0])
        bias = None if self.bias is None else spill.store(b.load(self.bias, padded), self.column_slots[1])
        if self.offset is not None:
            spill.store(T.reinterpret("float32x4", b.load(self.offset, padded)), self.column_slots[2])
        inverse = None if self.inverse_slot is None else spill.reload(self.inverse_slot)

        def row_ops(row: Expr) -> OpStream:
            place = b.bind(at + row * spec.n)
            slot = tile.sums + row * HALVES
            parts = [T.reinterpret("int32x4", b.load(spill.memory, (slot + part) * 4)) for part in range(HALVES)]
            yield None
            sums = b.pair_sums(*parts)
            sums = T.reinterpret("int32x4", (yield T.reinterpret("float32x4", sums)))
            if self.offset is not None:
                offset = T.reinterpret("int32x4", b.load(spill.memory, self.column_slots[2] * 4))
                yield None
                sums = b.bind(sums - offset)
            value = yield b.bind(b.cast(sums, "float32x4"))
            value = yield from self.ops(value, scale, bias, inverse, place, between)
            if self.out_words is None:
                b.store(self.out, value, place)
            else:
                word = yield from requantize_ops(b, (yield value), spec.qmax)
                b.store(self.out_words, word, b.bind(T.shift_right(place, T.int32(2))), 1)
            return value

        return row_ops

    # -- at once ---------------------------------------------------------------------------------------------------------
    def keep_constants_in_memory(self) -> None:
        """At the kernel's beginning."""
        self.between = memory = ConstantsInMemory(self.b, self._activation_constants(), MOST_VECTORS)
        self.bias_slots = [memory.allocate(1) for _ in range(MOST_VECTORS)]
        memory.store_constants()

    def apply(self, sums: list[list[Expr]], rows: list[Expr], group: Expr, column: Expr) -> None:
        """On a tile's sums, or some of them: for each row a vector for every four columns from ``column`` on, which counts
        within the group."""
        spec, b, between = self.spec, self.b, self.between
        inverse = None if self.inverse is None else between.store(self.inverse)
        streams: list[list[OpStream]] = [[] for _ in rows]
        for j in range(len(sums[0])):
            padded = b.bind(group * round_up(spec.group_n, 4) + column + 4 * j)
            scale = None if self.scale is None else between.store(b.load(self.scale, padded))
            bias = None if self.bias is None else between.store_summand(b.load(self.bias, padded), self.bias_slots[j])
            for i, row in enumerate(rows):
                value = sums[i][j] if self.offset is None else b.bind(sums[i][j] - b.load(self.offset, padded))
                value = value if self.scale is None else b.bind(b.cast(value, "float32x4"))
                at = b.bind(row * spec.n + group * spec.group_n + column + 4 * j)
                streams[i].append(self.ops(value, scale, bias, inverse, at, between))
        results = iter(round_robin(*(stream for row in streams for stream in row), after_turn=between.after_turn))
        left = spec.group_n - column if isinstance(column, int) else 4 * len(sums[0])
        places = [b.bind(row * spec.n + group * spec.group_n + column) for row in rows]
        self._store([[next(results) for _ in row] for row in streams], places, left)

    def _store(self, results: list[list[Expr]], places: list[Expr], columns: int) -> None:
        """Each row's vectors at its place, ``columns`` of them at most."""
        spec, b = self.spec, self.b
        if spec.quantize and len(results[0]) == 2 and spec.group_n % 4 == 0:
            for row, at in zip(results, places, strict=True):
                b.store(self.out, b.to_int8(row, spec.qmax), at, 8)
            return
        if spec.quantize and len(results[0]) == 1 and columns >= 4 and spec.group_n % 4 == 0:
            self._store_words([value for (value,) in results], places)
            return
        for row, at in zip(results, places, strict=True):
            for j, value in enumerate(row):
                self._store_vector(value, at + 4 * j, min(4, columns - 4 * j))

    def _store_words(self, results: list[Expr], places: list[Expr]) -> None:
        """Four int8 of every row."""
        b = self.b
        for first in range(0, len(results), 4):  # tiles of halves have eight rows
            part = results[first : first + 4]
            count = 1 if len(part) == 1 else 2 if len(part) == 2 else 4
            words = b.words(b.to_int8((part * 4)[:count], self.spec.qmax))
            for word, at in zip(words, places[first : first + 4], strict=False):
                b.store(self.out_words, word, b.bind(at // 4), 1)

    def _store_vector(self, value: Expr, at: Expr, lanes: int) -> None:
        b = self.b
        value = b.to_int8([value], self.spec.qmax) if self.spec.quantize else value
        if lanes == 4:
            b.store(self.out, value, at)
            return
        for lane in range(lanes):
            b.store(self.out, T.Shuffle([value], [lane]), at + lane, 1)

    # -- operations ------------------------------------------------------------------------------------------------------
    def ops(
        self, value: Expr, scale: Reload | None, bias: Reload | None, inverse: Reload | None, at: Expr, between: InRegisters
    ) -> OpStream:
        """Four sums as float32x4 to four results, but for rounding: scale and bias, activation, residual, output scale."""
        spec, b = self.spec, self.b
        factor, summand = (None if v is None else v() for v in (scale, bias))
        yield None
        if factor is not None:
            value = b.fma(value, factor, summand) if summand is not None else value * factor
        elif summand is not None:
            value = value + summand
        last = self.residual is None  # the activation may then work in quantized units
        if spec.activation == "relu":
            value = b.maximum(value, b.splat(0.0))
        value = b.bind(value)
        rescaled = spec.activation not in ("", "relu") and last
        if spec.activation not in ("", "relu"):
            value = yield from activation_ops(b, spec.activation, (yield value), inverse if last else None, between, spec.kind)
        if self.residual is not None:
            value = yield value
            residual = b.load(self.residual, at)
            yield None
            value = b.bind(value + residual)
        if inverse is not None and not rescaled:
            value = yield value
            factor = inverse()
            yield None
            value = b.bind(value * factor)
        return value
