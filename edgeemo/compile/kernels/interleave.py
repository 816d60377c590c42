"""Interleaves a tile's epilogue with the multiplications of the next tile (software pipelining across tiles).

Int8 products fill one of the core's two vector pipes and half of the other (SMULL and SMLAL2 go to one, SADALP to the other), and
leave a third of its decoder. An epilogue fits in there if each of its operations comes when its operands are there: one that
waits takes the multiplier's pipe in the end. So it is cut into single operations that are spread over the multiplications, those
of two rows by turns. Between two operations a value lies in memory: LLVM keeps the order of volatile loads and stores, but not
that of arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr

# Emits an operation or two between yields. A value that it yields is given back to it, perhaps reloaded from memory; where it
# yields None, a load that it has issued is under way. It returns its result.
OpStream = Generator[Expr | None, Expr, Expr]
Reload = Callable[[], Expr]
# Receives the sums of four columns: row, part, int32x4, whose neighbouring lanes are yet to be added (Builder.pair_sums).
AccumulatorSink = Callable[[int, int, Expr], None]


def round_robin(*streams: OpStream, after_turn: Callable[[], None] = lambda: None) -> list[Expr]:
    """Emits all operations, one of each stream by turns, so that neighbours do not wait for each other; the streams' results."""
    values: list[Expr] = [None] * len(streams)
    left = list(range(len(streams)))
    while left:
        for i in list(left):
            try:
                values[i] = streams[i].send(values[i])
            except StopIteration as end:
                values[i] = end.value
                left.remove(i)
        after_turn()
    return values


class InRegisters:
    """Values stay in SSA form between operations; LLVM allocates registers."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def constant(self, value: float) -> Expr:
        return self.b.splat(value)

    def summand(self, value: float) -> Expr:
        """A constant that an FMLA writes its result over."""
        return self.constant(value)

    def store(self, value: Expr) -> Reload:
        """A vector of up to four float32 that is needed again later."""
        return lambda: value

    def store_summand(self, value: Expr, slot: int) -> Reload:
        """The same, of a vector that an FMLA writes its result over. ``slot``: for those that keep it in memory."""
        return self.store(value)

    def after_turn(self) -> None:
        """All vectors have had an operation by turns."""


class ConstantsInMemory(InRegisters):
    """Summands, which are written over, are loaded each time: a copy would take a vector pipe, which a load leaves alone. Turns
    stay as they are written; else LLVM would load all first and spill."""

    def __init__(self, b: Builder, constants: Iterable[float], slots: int) -> None:
        """``slots``: values stored at one time in the whole kernel. Made at the kernel's beginning: TVM shares memory among
        buffers whose life it takes for ended, and volatile ones live on."""
        super().__init__(b)
        self.constants = {value: slot for slot, value in enumerate(sorted(set(constants)))}
        self.free = len(self.constants)
        self.memory = b.scratch((self.free + slots) * 4, volatile=True)

    def store_constants(self) -> None:
        """Once, before any operation that reads one."""
        for value, slot in self.constants.items():
            self.put(self.b.splat(value), slot)

    def summand(self, value: float) -> Expr:
        return self.b.load(self.memory, self.constants[value] * 4)

    def allocate(self, count: int) -> int:
        """The first of ``count`` slots that nobody else gets."""
        self.free += count
        assert self.free * 4 <= int(self.memory.shape[0])
        return self.free - count

    def put(self, value: Expr, slot: Expr) -> Reload:
        """A vector of up to four float32 that is loaded wherever it is used."""
        lanes = int(str(value.ty.dtype).rpartition("x")[2])
        self.b.store(self.memory, value, slot * 4, lanes)
        return self.reload(slot, lanes)

    def store_summand(self, value: Expr, slot: int) -> Reload:
        return self.put(value, slot)

    def after_turn(self) -> None:
        self.b.scheduling_barrier()

    def reload(self, slot: Expr, lanes: int = 4) -> Reload:
        return lambda: self.b.load(self.memory, slot * 4, lanes)


class SpillSlots(ConstantsInMemory):
    """Values lie on the stack between operations, in memory that LLVM may not keep in registers: the products need those."""

    def constant(self, value: float) -> Expr:
        return self.summand(value)

    def store(self, value: Expr, slot: Expr | None = None) -> Reload:
        return self.put(value, self.allocate(1) if slot is None else slot)


def requantize_ops(b: Builder, value: Expr, qmax: int) -> OpStream:
    """float32x4 in quantized units to four int8 in an int32: rounds and clips as Builder.to_int8 does."""
    wide = yield T.reinterpret("float32x4", b.round_to_int32(value))
    half = b.intrinsic("int16x4", "llvm.aarch64.neon.sqxtn.v4i16", T.reinterpret("int32x4", wide))
    half = b.bind(T.reinterpret("int16x4", (yield T.reinterpret("float32x2", half))))
    both = b.bind(T.Shuffle([half, half], list(range(8))))
    bytes_ = b.clamp_int8(b.intrinsic("int8x8", "llvm.aarch64.neon.sqxtn.v8i8", both), qmax)
    return T.Shuffle([T.reinterpret("int32x2", bytes_)], [0])


@dataclass(frozen=True)
class DeferredEpilogue:
    """The epilogue of the tile before, to be interleaved with a tile's multiplications."""

    spill: SpillSlots | None
    start: Callable[[], Callable[[Expr], OpStream]]  # emits the loads that all rows share; then the operations of a row
    sink: AccumulatorSink  # called before ``start``, with the sums of the tile before
    ops_per_row: int


NO_EPILOGUE = DeferredEpilogue(None, lambda: lambda row: iter(()), lambda row, part, sums: None, 0)  # type: ignore[arg-type, return-value]


def _by_turns(spill: SpillSlots, streams: Iterable[OpStream]) -> Iterator[None]:
    """One operation of each stream, again and again until all have ended; values wait in spill slots."""
    first = spill.free
    left = [(stream, spill.allocate(1)) for stream in streams]
    waiting: dict[int, Reload] = {}
    while left:
        for one in list(left):
            stream, slot = one
            try:
                value = stream.send(waiting.pop(slot)() if slot in waiting else None)
            except StopIteration:
                left.remove(one)
                continue
            if value is not None:
                waiting[slot] = spill.store(value, slot)
            yield
    spill.free = first


class EpilogueInterleaver:
    """Spreads a deferred epilogue evenly over multiplications, two rows by turns."""

    def __init__(self, b: Builder, epilogue: DeferredEpilogue, rows: int) -> None:
        self.b, self.epilogue, self.rows = b, epilogue, rows if epilogue.ops_per_row else 0
        self.row_ops: Callable[[Expr], OpStream] | None = None
        self.pending: Iterator[None] = iter(())
        self.total = self.emitted = self.multiplied = self.span = 0

    def start(self) -> None:
        """Emits the loads that all rows share."""
        if self.rows:
            self.row_ops = self.epilogue.start()

    def split_loop(self, tap: int, taps: int, turns: int) -> list[tuple[int, int, range]]:
        """The loop over a tap's ``turns`` in pieces: (first turn, end, rows of the piece's first turn, as many in every other).
        The first turns take two rows each, one where their number is odd, or more where there are few turns."""
        least = max(2 - self.rows % 2, -(-self.rows // (taps * turns)))
        share = next(n for n in range(least, self.rows + 1) if self.rows % n == 0) if self.rows else 1
        before = tap * turns * share
        busy = max(0, min(turns, (self.rows - before) // share))
        pieces = [(0, busy, range(before, before + share)), (busy, turns, range(0))]
        return [p for p in pieces if p[0] < p[1]]

    def begin(self, rows: Sequence[Expr], multiplications: int) -> None:
        """From here on so many multiplications have these rows' operations among them."""
        self.pending, self.total = iter(()), 0
        if not self.rows or not rows:
            return
        assert self.row_ops
        streams, spill = [self.row_ops(row) for row in rows], self.epilogue.spill
        assert spill
        self.pending = chain.from_iterable(_by_turns(spill, streams[i : i + 2]) for i in range(0, len(streams), 2))
        self.total, self.emitted = self.epilogue.ops_per_row * len(rows), 0
        self.multiplied, self.span = 0, multiplications

    def after_multiplication(self) -> None:
        self.multiplied += 1
        while self.emitted < self.total and self.emitted * self.span < self.multiplied * self.total:
            self.b.scheduling_barrier()
            next(self.pending, None)
            self.b.scheduling_barrier()
            self.emitted += 1

    def drain(self) -> None:
        """Emits all operations that are left."""
        for _ in self.pending:
            pass
