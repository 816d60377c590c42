"""States that are small and wholly replaced in a step are loaded to and stored from one contiguous block; the clock ticks; an
output that is another value of the step (an input, a part, a constant) is copied from it."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import kernel
from edgeemo.compile.kernels.specs import KernelSpec
from edgeemo.targets.board import KernelTarget


@dataclass(frozen=True)
class StateCopy(KernelSpec):
    words: int  # float32 words per stream
    state_stride: int  # float32 words from one slot's states to the next
    store: bool

    @property
    def name(self) -> str:
        return f"state_{'store' if self.store else 'load'}_{self.words}"


@dataclass(frozen=True)
class Tick(KernelSpec):
    period: int
    state_stride: int

    @property
    def name(self) -> str:
        return "tick"


@dataclass(frozen=True)
class OutputCopy(KernelSpec):
    """``elements`` of ``dtype`` per stream; ``shared``: the source is a constant, the same for all streams."""

    elements: int
    dtype: str
    shared: bool

    @property
    def name(self) -> str:
        return f"copy_{'constant_' if self.shared else ''}{self.elements}_{self.dtype}"


def build_output_copy(spec: OutputCopy, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, source, output), both (batch, elements)."""
    with kernel(spec.name, target) as (b, batch):
        source, output = b.pointers({"source": spec.dtype, "output": spec.dtype}).values()
        with T.serial(0, batch) as stream, T.serial(0, spec.elements) as i:
            at = stream * spec.elements + i
            b.store(output, source[i if spec.shared else at], at, 1)
    return b.result


def build_copy(spec: StateCopy, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, slots, state, block), block being (batch, words)."""
    with kernel(spec.name, target) as (b, batch):
        slots, state, block = b.pointers({"slots": "int32", "state": "float32", "block": "float32"}).values()
        lanes = 4 if spec.words % 4 == 0 else 1
        with T.serial(0, batch) as stream:
            row = b.bind(slots[stream] * spec.state_stride)
            with T.serial(0, spec.words // lanes) as i:
                in_state, in_block = row + i * lanes, stream * spec.words + i * lanes
                if spec.store:
                    b.store(state, b.load(block, in_block, lanes), in_state, lanes)
                else:
                    b.store(block, b.load(state, in_state, lanes), in_block, lanes)
    return b.result


def build_tick(spec: Tick, target: KernelTarget):  # type: ignore[no-untyped-def]
    """The kernel: (batch, slots, clock): every stream's clock one on, modulo the period."""
    with kernel(spec.name, target) as (b, batch):
        slots, clock = b.pointers({"slots": "int32", "clock": "int32"}).values()
        with T.serial(0, batch) as stream:
            at = b.bind(slots[stream] * spec.state_stride)
            b.store(clock, (clock[at] + 1) % spec.period, at, 1)
    return b.result
