"""Half-precision micro-kernel for NEON with FP16 arithmetic (ARMv8.2, FEAT_FP16): FMLA by element on eight halves, tiles of 4
rows x 32 columns.

Eight products an instruction where float32 has four. Two things keep that from costing more than the halves' own rounding:

- Activations are brought into range by a power of two per row, so that its largest lies between half of ROW_PEAK_F16 and it:
  nothing overflows whatever a layer is given (capabilities.halves_fit asks the weights), and little is lost below.
- Sums are halves for CHUNK_K_F16 products at most and are then added in float32, the row's factor taken out by the same FMLA.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr
from edgeemo.compile.kernels.microkernels.qs8_neon_mlal_4x4c16 import prefetch_weights
from edgeemo.compile.kernels.row_terms import RowTermCache
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.targets.capabilities import CHUNK_K_F16, LANES_F16, ROW_PEAK_F16

EXPONENT, MANTISSA_BITS, BIAS = 0x7F800000, 23, 127  # of a float32's bits
LEAST_EXPONENT = 8  # of a row's largest, biased: below it a row is as good as nothing, and its scale would overflow
PEAK_EXPONENT = ROW_PEAK_F16.bit_length() - 2  # a row's largest is brought to 2^this at least


class F16NeonFmla:
    """Emits the tiles of ``rows`` (output row, first element of ``a``), whose factors are found at once or known."""

    def __init__(self, spec: Gemm, b: Builder, a: Expr, w: Expr, rows: list[tuple[Expr, Expr]], cache: RowTermCache) -> None:
        self.spec, self.b, self.a, self.w, self.rows, self.cache = spec, b, a, w, rows, cache
        self.largest = b.scratch(len(rows) * LANES_F16)
        for i in range(0, len(rows) * LANES_F16, 4):  # here: TVM may share memory first written under a condition
            b.store(self.largest, b.splat(0.0), i)
        self.factors_at = cache.next_tile(self._find_factors)

    def _find_factors(self, to: Expr) -> None:
        """Every row's power of two that its activations are divided by, in all lanes, as bits."""
        spec, b = self.spec, self.b
        with T.serial(0, spec.taps) as tap, T.serial(0, spec.tap_k // LANES_F16) as block:
            for i, (_, at) in enumerate(self.rows):
                for j in (0, 4):
                    size = b.intrinsic("float32x4", "llvm.fabs.v4f32", self._activations(at, tap, block * LANES_F16 + j))
                    b.store(self.largest, b.maximum(b.load(self.largest, i * LANES_F16 + j), size), i * LANES_F16 + j)
        for i in range(len(self.rows)):
            halves = [b.load(self.largest, i * LANES_F16 + j) for j in (0, 4)]
            bits = T.reinterpret("int32", b.bind(b.max4(b.bind(b.maximum(*halves)))))
            exponent = T.max(T.bitwise_and(bits, T.int32(EXPONENT)), T.int32(LEAST_EXPONENT << MANTISSA_BITS))
            b.store(self.cache.memory, T.Broadcast(b.bind(exponent - T.int32(PEAK_EXPONENT << MANTISSA_BITS)), 4), to + i * 4)

    def _activations(self, at: Expr, tap: Expr, k: Expr) -> Expr:
        return self.b.load(self.a, at + tap * self.spec.tap_stride + k)

    def tile(self, width: int, w_at: Expr) -> list[list[Expr]]:
        """One tile's sums: for each row ``width`` / 4 float32x4."""
        spec, b, count = self.spec, self.b, len(self.rows)
        bits = [b.load(self.cache.memory, self.factors_at + i * 4) for i in range(count)]
        self.factors = [b.bind(T.reinterpret("float32x4", v)) for v in bits]
        # The reciprocal of a power of two is another: their exponents make 2 BIAS.
        one = T.Broadcast(T.int32(2 * BIAS << MANTISSA_BITS), 4)
        self.scales = [b.bind(T.reinterpret("float32x4", one - v)) for v in bits]
        self.sums, self.halves = b.scratch(count * width), b.scratch(count * width, "float16")
        for i in range(0, count * width, 4):
            b.store(self.sums, b.splat(0.0), i)
        blocks = spec.tap_k // LANES_F16
        whole = min(CHUNK_K_F16 // LANES_F16, blocks)
        with T.serial(0, spec.taps) as tap:
            with T.serial(0, blocks // whole) as chunk:
                self._chunk(tap, b.bind(chunk * whole), whole, width, w_at)
            if blocks % whole:
                self._chunk(tap, blocks // whole * whole, blocks % whole, width, w_at)
        return [[b.load(self.sums, i * width + j) for j in range(0, width, 4)] for i in range(count)]

    def _chunk(self, tap: Expr, first: Expr, blocks: int, width: int, w_at: Expr) -> None:
        """Products of so many blocks of LANES_F16 k in halves, then added to the sums."""
        spec, b = self.spec, self.b
        for i in range(0, len(self.rows) * width, LANES_F16):
            b.store(self.halves, b.zeros("float16", LANES_F16), i, LANES_F16)
        with T.serial(0, blocks) as block:
            k = b.bind((first + block) * LANES_F16)
            at = b.bind(w_at + (tap * spec.tap_k + k) * width)
            prefetch_weights(spec, b, self.w, at, LANES_F16 * width)
            values = [self._scaled(i, tap, k) for i in range(len(self.rows))]
            for lane in range(LANES_F16):
                scalars = [T.Broadcast(T.Shuffle([v], [lane]), LANES_F16) for v in values]
                for j in range(0, width, LANES_F16):
                    weights = b.load(self.w, at + lane * width + j, LANES_F16)
                    for i, value in enumerate(scalars):
                        to = i * width + j
                        b.store(self.halves, b.fma16(value, weights, b.load(self.halves, to, LANES_F16)), to, LANES_F16)
        for i, factor in enumerate(self.factors):
            for j in range(0, width, LANES_F16):
                half = b.load(self.halves, i * width + j, LANES_F16)
                for part in (0, 4):
                    wide = b.bind(b.cast(T.Shuffle([half], list(range(part, part + 4))), "float32x4"))
                    to = i * width + j + part
                    b.store(self.sums, b.fma(wide, factor, b.load(self.sums, to)), to)

    def _scaled(self, row: int, tap: Expr, k: Expr) -> Expr:
        """Eight activations of a row as halves."""
        b, at = self.b, self.rows[row][1]
        parts = [b.cast(self._activations(at, tap, k + j) * self.scales[row], "float16x4") for j in (0, 4)]
        return b.bind(T.Shuffle([b.bind(p) for p in parts], list(range(LANES_F16))))
