"""Int8 micro-kernel for NEON with half the multiplications, 32 k at a time.

Winograd's inner product ("A new algorithm for inner products", IEEE Trans. Computers C-17, 1968; not the convolution transform):
with a and w cut into halves a0, a1 and w0, w1 of 16 k each,

    sum a0 w0 + sum a1 w1  =  sum (a0 + w1) (a1 + w0)  -  sum a0 a1  -  sum w0 w1

exactly. The last term is known when the weights are (pack.pack_s8_winograd), the one before is a row's, whatever the column. So
32 products cost 16 multiplications and 32 additions of bytes, and additions go to either of the core's vector pipes,
multiplications to one of them: five operations on two pipes instead of four multiplications on one. It needs |a| + |w| <= 127
(the recipe's qmax of activations and weights), so that sums fit their bytes.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.interleave import EpilogueInterleaver
from edgeemo.compile.kernels.microkernels.qs8_neon_mlal_4x4c16 import (
    HALVES,
    Qs8NeonMlal,
    halves,
    multiply_16,
    pairwise_sum,
    prefetch_weights,
    widen_pairs,
)
from edgeemo.compile.kernels.row_terms import RowTermCache
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets.capabilities import COLUMNS_S8, K_S8


class Qs8NeonWinograd(Qs8NeonMlal):
    """A multiplication's sums are widened behind the next one's, whose additions go before them: 2.6 cycles for 32 products,
    where 2.5 would have both pipes full (modelled)."""

    k_per_block = 2 * K_S8

    def __init__(self, spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]], cache: RowTermCache) -> None:
        super().__init__(spec, b, a, w, rows)
        self.terms, self.partial = cache.memory, b.scratch(len(rows) * 4, "int32")
        for i in range(len(rows)):  # here, not where they are computed: TVM may share memory first written under a condition
            b.store(self.partial, b.zeros("int32", 4), i * 4)
        self.terms_at = cache.next_tile(self._compute_terms)

    def _compute_terms(self, to: Expr) -> None:
        """Each row's - sum a0 a1, in four parts, which its sums begin with."""
        spec, b, sums = self.spec, self.b, self.partial
        with T.serial(0, spec.taps) as tap, T.serial(0, self.blocks) as block:
            for i, (_, at) in enumerate(self.rows):
                first = at + tap * spec.tap_stride + block * self.k_per_block
                a0, a1 = (halves(b, b.load(self.a, first + k, 16)) for k in (0, K_S8))
                b.store(sums, b.load(sums, i * 4) + widen_pairs(b, multiply_16(b, a0, a1)), i * 4)
        for i in range(len(self.rows)):
            b.store(self.terms, b.zeros("int32", 4) - b.load(sums, i * 4), to + i * 4)

    def _initial_sum(self, row: int) -> Expr:
        return self.b.load(self.terms, self.terms_at + row * 4)

    def _load(self, w_at: Expr, at: Expr) -> None:
        self._store_operand_pair(0, self.w, w_at)
        for i, (_, row) in enumerate(self.rows):
            self._store_operand_pair(2 + 2 * i, self.a, row + at)

    def _store_operand_pair(self, slot: int, buffer: Expr, at: Expr) -> None:
        for k in range(2):
            self._store_operand(slot + k, self.b.load(buffer, at + k * K_S8, 16))

    def _operand_pair(self, slot: int) -> list[Expr]:
        return [self.b.load(self.operands, (slot + k) * 16, 16) for k in range(2)]

    def _k_block(self, w_block: Expr, next_at: Expr, interleaver: EpilogueInterleaver, first: bool = False) -> None:
        b = self.b
        before: tuple[int, int, Expr] | None = None

        def accumulate(i: int, j: int, products: Expr) -> None:
            self._set_sum(i, j, widen_pairs(b, products) + (self._initial_sum(i) if first else self._sum(i, j)))

        for j in range(COLUMNS_S8):
            w0, w1 = self._operand_pair(0)
            self._store_operand_pair(0, self.w, w_block + (j + 1) * self.k_per_block)
            if j % 2 == 0:
                prefetch_weights(self.spec, b, self.w, w_block + j * self.k_per_block, 2 * self.k_per_block)
            b.scheduling_barrier()
            for i, (_, at) in enumerate(self.rows):
                a0, a1 = self._operand_pair(2 + 2 * i)
                products = b.bind(multiply_16(b, halves(b, b.bind(a0 + w1)), halves(b, b.bind(a1 + w0))))
                if first and j < HALVES:
                    interleaver.epilogue.sink(i, j, pairwise_sum(b, self.acc, i, j))
                if before is not None:
                    accumulate(*before)
                before = i, j, products
                if j == COLUMNS_S8 - 1:
                    self._store_operand_pair(2 + 2 * i, self.a, at + next_at)
                b.scheduling_barrier()
                interleaver.after_multiplication()
        assert before is not None
        accumulate(*before)
