"""One piece of code among another's operations: a tile's epilogue among the products of the next tile.

Int8 products fill one of the core's two vector pipes and half of the other (SMULL and SMLAL2 go to one, SADALP to the other), and
leave it a third of its decoder. An epilogue fits in there, if each of its operations comes when its operands are there: one that
waits takes the multiplier's pipe in the end. So it is cut into steps that are spread over the products, those of two rows in
turns, and between its steps a value lies in memory: LLVM keeps the order of loads and stores, but not that of sums and products.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from tvm.script.ir_builder import tirx as T

from edgeemo.compile.kernels.builder import Builder, Expr

# Emits an operation or two between yields. A value that it yields is given back to it, perhaps from memory; where it yields
# none, what it has loaded is on its way. At last it returns a value.
Steps = Generator[Expr | None, Expr, Expr]
Kept = Callable[[], Expr]
# Takes sums of four columns: row, part, int32x4, whose neighbouring lanes are yet to be added (Builder.pair_sums).
Take = Callable[[int, int, Expr], None]


def at_once(*several: Steps) -> list[Expr]:
    """Emits all steps, one of each in turns, so that the core need not look far for what does not wait; their values."""
    values: list[Expr] = [None] * len(several)
    left = list(range(len(several)))
    while left:
        for i in list(left):
            try:
                values[i] = several[i].send(values[i])
            except StopIteration as end:
                values[i] = end.value
                left.remove(i)
    return values


class Registers:
    """Where values wait when steps follow each other: nowhere in particular."""

    def __init__(self, b: Builder) -> None:
        self.b = b

    def constant(self, value: float) -> Expr:
        return self.b.splat(value)

    def keep(self, value: Expr) -> Kept:
        """A vector of up to four float32 that is wanted later."""
        return lambda: value


class Desk(Registers):
    """Where values wait when steps are spread: in memory that LLVM may not keep in registers, which the products need."""

    def __init__(self, b: Builder, constants: Iterable[float], slots: int) -> None:
        """``slots``: how many values may be kept in the whole kernel. Made where the kernel begins: TVM shares memory among what
        it takes for done with, and what is volatile stays so."""
        super().__init__(b)
        self.constants = {value: slot for slot, value in enumerate(sorted(set(constants)))}
        self.free = len(self.constants)
        self.memory = b.scratch((self.free + slots) * 4, volatile=True)

    def lay(self) -> None:
        """Lays out the constants, once before any step."""
        for value, slot in self.constants.items():
            self.keep(self.b.splat(value), slot)

    def constant(self, value: float) -> Expr:
        return self.b.load(self.memory, self.constants[value] * 4)

    def slots(self, count: int) -> int:
        """The first of so many slots of one's own."""
        self.free += count
        assert self.free * 4 <= int(self.memory.shape[0])
        return self.free - count

    def keep(self, value: Expr, slot: Expr | None = None) -> Kept:
        slot = self.slots(1) if slot is None else slot
        lanes = int(str(value.ty.dtype).rpartition("x")[2])
        self.b.store(self.memory, value, slot * 4, lanes)
        return self.kept(slot, lanes)

    def kept(self, slot: Expr, lanes: int = 4) -> Kept:
        """What a slot has."""
        return lambda: self.b.load(self.memory, slot * 4, lanes)


def narrowed(b: Builder, value: Expr, largest: int) -> Steps:
    """float32x4 in quantized units to four int8 in an int32, as Builder.to_int8 rounds and clips."""
    wide = yield T.reinterpret("float32x4", b.round_to_int32(value))
    half = b.intrinsic("int16x4", "llvm.aarch64.neon.sqxtn.v4i16", T.reinterpret("int32x4", wide))
    half = b.bind(T.reinterpret("int16x4", (yield T.reinterpret("float32x2", half))))
    both = b.bind(T.Shuffle([half, half], list(range(8))))
    bytes_ = b.within(b.intrinsic("int8x8", "llvm.aarch64.neon.sqxtn.v8i8", both), largest)
    return T.Shuffle([T.reinterpret("int32x2", bytes_)], [0])


@dataclass(frozen=True)
class Beside:
    """What is done among a tile's products with the tile before."""

    desk: Desk | None
    start: Callable[[], Callable[[Expr], Steps]]  # emits what all rows need; then by row
    take: Take  # before ``start`` where they are the tile's before
    steps: int  # of a row


NOTHING = Beside(None, lambda: lambda row: iter(()), lambda row, part, sums: None, 0)  # type: ignore[arg-type, return-value]


def _in_turns(desk: Desk, several: Iterable[Steps]) -> Iterator[None]:
    """One step of each, again and again until all are done; what a step leaves waits on the desk."""
    first = desk.free
    left = [(steps, desk.slots(1)) for steps in several]
    kept: dict[int, Kept] = {}
    while left:
        for one in list(left):
            steps, slot = one
            try:
                value = steps.send(kept.pop(slot)() if slot in kept else None)
            except StopIteration:
                left.remove(one)
                continue
            if value is not None:
                kept[slot] = desk.keep(value, slot)
            yield
    desk.free = first


class Weave:
    """Spreads ``beside`` evenly over products, two rows in turns."""

    def __init__(self, b: Builder, beside: Beside, rows: int) -> None:
        self.b, self.beside, self.rows = b, beside, rows if beside.steps else 0
        self.of_row: Callable[[Expr], Steps] | None = None
        self.woven: Iterator[None] = iter(())
        self.total = self.done = self.passed = self.span = 0

    def start(self) -> None:
        """Emits what all rows need."""
        if self.rows:
            self.of_row = self.beside.start()

    def shares(self, tap: int, taps: int, turns: int) -> list[tuple[int, int, range]]:
        """The loop over a tap's ``turns`` in pieces: (first turn, end, rows of the piece's first turn, as many in every other).
        The first turns have two rows each, one where their number is odd, or more where there are few turns."""
        least = max(2 - self.rows % 2, -(-self.rows // (taps * turns)))
        share = next(n for n in range(least, self.rows + 1) if self.rows % n == 0) if self.rows else 1
        before = tap * turns * share
        busy = max(0, min(turns, (self.rows - before) // share))
        pieces = [(0, busy, range(before, before + share)), (busy, turns, range(0))]
        return [p for p in pieces if p[0] < p[1]]

    def begin(self, rows: Sequence[Expr], products: int) -> None:
        """From here on so many products have these rows' steps among them."""
        self.woven, self.total = iter(()), 0
        if not self.rows or not rows:
            return
        assert self.of_row
        steps, desk = [self.of_row(row) for row in rows], self.beside.desk
        assert desk
        self.woven = chain.from_iterable(_in_turns(desk, steps[i : i + 2]) for i in range(0, len(steps), 2))
        self.total, self.done, self.passed, self.span = self.beside.steps * len(rows), 0, 0, products

    def after_product(self) -> None:
        self.passed += 1
        while self.done < self.total and self.done * self.span < self.passed * self.total:
            self.b.fence()
            next(self.woven, None)
            self.b.fence()
            self.done += 1

    def finish(self) -> None:
        """All that is left."""
        for _ in self.woven:
            pass
