"""Specification of a matrix product's kernel; the emitter (gemm.py) and the micro-kernels depend on it, not on each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from edgeemo.targets.capabilities import FMLA_F16, INT8_MAX, PORTABLE_S8, SDOT, WINOGRAD


class KernelSpec(ABC):
    """Everything a kernel's code depends on, as a frozen dataclass. Layers with equal specs share one kernel."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in profiles and dumps: letters, digits and underscores."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates per stream and step; none where a kernel moves data only."""
        return 0

    @property
    def int8_macs(self) -> int:
        """Those of them with int8 weights."""
        return 0

    @property
    def rate(self) -> str:
        """Name in a target's macs_per_cycle of how quickly it multiplies."""
        return "int8" if self.int8_macs else "fp32"


@dataclass(frozen=True)
class Gemm(KernelSpec):
    """A product or convolution with constant weights: out[m, n] = epilogue(sum_k a[m, k] w[k, n])."""

    kind: str  # of the weights: s8, f16 or f32; activations are int8, float32, float32
    rows: int  # output rows per stream
    taps: int
    tap_k: int  # reduction length per tap (channels per group)
    tap_stride: int
    row_stride: int
    stream_stride: int
    n: int  # output columns, all groups
    groups: int = 1
    bias: bool = False
    activation: str = ""  # of vector_math.ACTIVATIONS
    residual: bool = False
    quantize: bool = False  # int8 out
    qmax: int = INT8_MAX  # magnitude of the quantized output
    microkernel: str = ""  # of MICROKERNELS; empty: the plain one of the kind
    requant_folded: bool = False  # scale and bias already carry the output's scale
    rows_per_block: int = 0  # rows come in blocks of so many, ``block_stride`` apart (0: all rows are row_stride apart)
    block_stride: int = 0
    nonzero_k: tuple[int, ...] = ()  # f32: k with a weight in each column tile; only those are stored (pack.sparse_rows)

    @property
    def name(self) -> str:
        after = (
            "pairs" * self.winograd,
            "bias" * self.bias,
            self.activation,
            "residual" * self.residual,
            "quantize" * self.quantize,
        )
        tail = "".join(f"_{t}" for t in after if t)
        if self.nonzero_k:
            return f"gemm_{self.kind}_rows{self.rows}_k{self.tap_k}_n{self.n}_sparse{sum(self.nonzero_k)}{tail}"
        if self.rows_per_block and self.tap_k == 1:
            return f"gemm_{self.kind}_rows{self.rows}_k{self.taps}_n{self.n}_transposed{tail}"
        conv = f"_taps{self.taps}_groups{self.groups}_stride{self.row_stride}_{self.stream_stride}" if self.taps > 1 else ""
        return f"gemm_{self.kind}_rows{self.rows}_k{self.taps * self.tap_k}_n{self.n}{conv}{tail}"

    @property
    def winograd(self) -> bool:
        """Whether its int8 products are computed with half the multiplications."""
        return self.microkernel == WINOGRAD

    @property
    def sdot(self) -> bool:
        """Whether its int8 products are computed by the core's dot products."""
        return self.microkernel == SDOT

    @property
    def pairwise(self) -> bool:
        """Whether its int8 products are added in pairs, by NEON's own instructions."""
        return self.kind == "s8" and self.microkernel not in (SDOT, PORTABLE_S8)

    @property
    def half_arithmetic(self) -> bool:
        """Whether its float16 products are computed and, for some k, summed in halves."""
        return self.microkernel == FMLA_F16

    @property
    def macs(self) -> int:
        """Multiply-accumulates per stream and step, those with zeros that are left out included."""
        return self.rows * self.taps * self.tap_k * self.n

    @property
    def int8_macs(self) -> int:
        return self.macs if self.kind == "s8" else 0

    @property
    def rate(self) -> str:
        special = {WINOGRAD: "int8_winograd", FMLA_F16: "fp16_halves"}
        return special.get(self.microkernel) or {"s8": "int8", "f16": "fp16", "f32": "fp32"}[self.kind]

    @property
    def flat(self) -> bool:
        """Whether rows of consecutive streams follow each other at the same stride, so that tiles may span streams."""
        return self.stream_stride == self.rows * self.row_stride and not self.rows_per_block

    @property
    def group_n(self) -> int:
        return self.n // self.groups
