"""A thin layer over TVM's IRBuilder: private kernels that take pointers, and the few vector idioms all kernels share.

A kernel is a private PrimFunc of (batch, pointers...), called by the one exported step function (codegen/step_function.py), and a
function of its own in the library (codegen/functions.py). Scratch is a few vectors on the stack: TVM turns an allocation of 1 KiB
or more into a call to a workspace hook that the slim runtime does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tvm
from tvm.ir import PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgeemo.targets.board import KernelTarget
from edgeemo.targets.capabilities import INT8_MAX, SDOT

FENCE_HINT = 20  # CSDB: the one hint that LLVM's AArch64 scheduler does not move code across
LINE = 64  # bytes that a cache brings in at once
WIDTHS = {"int8": 1, "float16": 2, "float32": 4}
WRITTEN_OUT = 32  # elements up to which what is done four by four stands in a row; a long window's code would not end
FLAT = 1 << 30  # a flat view of a pointer needs some extent; nothing checks it
Expr = Any  # tvm.ir.Expr; TVM ships no stubs


class Builder:
    """Writes a kernel's body. All indices count elements of the buffer's dtype."""

    def __init__(self, target: KernelTarget) -> None:
        self.target, self.neon = target, target.neon
        self.dot_products = SDOT in target.microkernels
        self.at_use = False
        self.result: tvm.tirx.PrimFunc | None = None

    # -- parameters and memory -------------------------------------------------------------------------------------------
    def pointers(self, dtypes: dict[str, str]) -> dict[str, Expr]:
        """The kernel's pointer parameters, in order, as flat buffers. Called once, first: TVM takes no parameter after a body."""
        self.arguments = {name: T.arg(name, T.handle(dtype)) for name, dtype in dtypes.items()}
        return {name: self.view(name, dtype) for name, dtype in dtypes.items()}

    def view(self, name: str, dtype: str) -> Expr:
        """A pointer parameter as a flat buffer of any type. Four int8 lanes are best stored as one int32: LLVM takes vectors of
        four bytes apart lane by lane."""
        return T.decl_buffer((FLAT,), dtype, data=self.arguments[name])

    def scratch(self, size: int, dtype: str = "float32", volatile: bool = False) -> Expr:
        """Memory on the stack, or registers if LLVM finds some, which ``volatile`` forbids."""
        return T.alloc_buffer((size,), dtype, annotations={"tirx.volatile": True} if volatile else None)

    def load(self, buffer: Expr, index: Expr, lanes: int = 4) -> Expr:
        return T.Bind(buffer[index if lanes == 1 else T.Ramp(index, 1, lanes)])

    def store(self, buffer: Expr, value: Expr, index: Expr, lanes: int = 4) -> None:
        T.buffer_store(buffer, value, [index if lanes == 1 else T.Ramp(index, 1, lanes)])

    def for_each_vector(self, size: int, visit: Callable[[Expr], None]) -> None:
        """Calls visit(first of four) over ``size`` elements, in a row or in a loop."""
        if size <= WRITTEN_OUT:
            for j in range(0, size, 4):
                visit(j)
        else:
            with T.serial(0, size // 4) as group:
                visit(self.bind(group * 4))

    def bind(self, value: Expr) -> Expr:
        return T.Bind(value)

    def scheduling_barrier(self) -> None:
        """Nothing is scheduled across it, but where the target leaves the order to LLVM. The mark (CSDB) is taken out of the
        assembly again, compile/codegen/assembly.py."""
        if self.neon and self.target.order == "written":
            T.evaluate(T.call_llvm_intrin("void", "llvm.aarch64.hint", T.uint32(FENCE_HINT)))

    def prefetch(self, buffer: Expr, index: Expr, elements: int) -> None:
        """Asks for the cache lines that so many elements fill, well before their use: a core's prefetcher stops at the end of a
        page. Prefetches to LLVM; where the target says so they are loads to nowhere (codegen/assembly.py): there must be
        memory."""
        if self.target.prefetch_distance_bytes:
            size = WIDTHS[buffer.dtype]
            for line in range(elements * size // LINE):
                address = T.address_of(buffer[index + line * (LINE // size)])
                T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, *map(T.int32, (0, 3, 1))))

    # -- values ----------------------------------------------------------------------------------------------------------
    def splat(self, value: Expr | float, lanes: int = 4) -> Expr:
        return T.Broadcast(T.float32(value) if isinstance(value, (int, float)) else value, lanes)

    def zeros(self, dtype: str, lanes: int) -> Expr:
        return T.Broadcast(T.float32(0) if dtype == "float32" else tvm.tirx.const(0, dtype), lanes)

    def cast(self, value: Expr, dtype: str) -> Expr:
        return T.Cast(dtype, value)

    def intrinsic(self, dtype: str, name: str, *args: Expr) -> Expr:
        call = T.call_llvm_pure_intrin if self.at_use else T.call_llvm_intrin
        return call(dtype, name, *args)

    @contextmanager
    def computed_at_use(self) -> Iterator[None]:
        """Intrinsics in it come where their result is used, if that is in one place. TVM writes what is pure, bound or not, in
        place of its name: a value with two uses is there twice, one of ten operations with two uses each a thousand times. So
        elsewhere they are calls that TVM leaves where they stand."""
        self.at_use = True
        yield
        self.at_use = False

    def fma(self, a: Expr, b: Expr, c: Expr, lanes: int = 4) -> Expr:
        """a * b + c, fused where the target fuses it (FMLA, VFMADD), never a call to libm."""
        suffix = "f32" if lanes == 1 else f"v{lanes}f32"
        dtype = "float32" if lanes == 1 else f"float32x{lanes}"
        return self.intrinsic(dtype, f"llvm.fmuladd.{suffix}", a, b, c)

    def fma16(self, a: Expr, b: Expr, c: Expr) -> Expr:
        """a * b + c of eight halves, of targets with FP16 arithmetic."""
        return self.intrinsic("float16x8", "llvm.fmuladd.v8f16", a, b, c)

    def maximum(self, a: Expr, b: Expr, lanes: int = 4) -> Expr:
        return self.intrinsic(f"float32x{lanes}", f"llvm.maxnum.v{lanes}f32", a, b)

    def minimum(self, a: Expr, b: Expr, lanes: int = 4) -> Expr:
        return self.intrinsic(f"float32x{lanes}", f"llvm.minnum.v{lanes}f32", a, b)

    def quarter(self, vector: Expr, part: int) -> Expr:
        """Four lanes of an int8x16 as int16x4, by way of int16x8: AArch64 widens once and multiplies by halves."""
        half = self.intrinsic("int8x8", "llvm.vector.extract.v8i8.v16i8", vector, T.int64(part // 2 * 8))
        wide = self.cast(half, "int16x8")
        return self.intrinsic("int16x4", "llvm.vector.extract.v4i16.v8i16", wide, T.int64(part % 2 * 4))

    def dot16(self, sums: Expr, x: Expr, y: Expr) -> Expr:
        """int32x4 plus the products of two int8x16, four to a lane; exact for every int8, -128 included."""
        if self.dot_products:
            return self.dot_product(sums, x, y)
        for start in (0, 8):
            a, c = (self._half(v, start) for v in (x, y))
            if self.neon:
                product = self.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", a, c)
                sums = self.bind(sums + self.intrinsic("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", product))
            else:
                product = self.bind(self.cast(self.cast(a, "int16x8") * self.cast(c, "int16x8"), "int32x8"))
                parts = (self.intrinsic("int32x4", "llvm.vector.extract.v4i32.v8i32", product, T.int64(i)) for i in (0, 4))
                sums = self.bind(sums + next(parts) + next(parts))
        return sums

    def dot_product(self, sums: Expr, x: Expr, y: Expr) -> Expr:
        """int32x4 plus the products of two int8x16, neighbours by fours to a lane; of targets with dot products (SDOT)."""
        return self.bind(self.intrinsic("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", sums, x, y))

    def products8(self, xs: list[Expr], ys: list[Expr], start: int) -> list[Expr]:
        """For one or two pairs of int8 vectors, the products of eight lanes from ``start``, added lane by lane: two int32x4.
        ``ys`` must lie in [-127, 127]: two products then fit int16."""
        total: Expr = None
        for x, y in zip(xs, ys, strict=True):
            a, c = (self._half(v, start) for v in (x, y))
            if self.neon:
                product = self.intrinsic("int16x8", "llvm.aarch64.neon.smull.v8i16", a, c)
            else:
                product = self.cast(a, "int16x8") * self.cast(c, "int16x8")
            total = product if total is None else total + product
        total = self.bind(total)
        halves = (self.intrinsic("int16x4", "llvm.vector.extract.v4i16.v8i16", total, T.int64(i)) for i in (0, 4))
        return [self.cast(half, "int32x4") for half in halves]

    def _half(self, vector: Expr, start: int) -> Expr:
        """Eight lanes of eight or sixteen int8."""
        if str(vector.ty.dtype) == "int8x8":
            return vector
        return self.intrinsic("int8x8", "llvm.vector.extract.v8i8.v16i8", vector, T.int64(start))

    def pair_sums(self, x: Expr, y: Expr) -> Expr:
        """Sums of neighbouring lanes of two int32x4 on NEON: of x, then of y."""
        return self.bind(self.intrinsic("int32x4", "llvm.aarch64.neon.addp.v4i32", x, y))

    def value_barrier(self, vector: Expr) -> Expr:
        """An int32x4 as it is, which LLVM may not look through to choose other instructions."""
        fenced = self.intrinsic("float32x4", "llvm.arithmetic.fence.v4f32", T.reinterpret("float32x4", vector))
        return T.reinterpret("int32x4", fenced)

    def sums_of(self, vectors: list[Expr]) -> Expr:
        """The sums of four int32x4 as one."""
        if self.neon:
            return self.pair_sums(self.pair_sums(*vectors[:2]), self.pair_sums(*vectors[2:]))
        return self.bind(T.Shuffle([self.intrinsic("int32", "llvm.vector.reduce.add.v4i32", v) for v in vectors], [0, 1, 2, 3]))

    def words(self, vector: Expr) -> list[Expr]:
        """An int8 vector as one int32 for every four lanes."""
        lanes = {4: "int32", 8: "int32x2", 16: "int32x4"}
        count = int(str(vector.ty.dtype).rpartition("x")[2])
        whole = self.bind(T.reinterpret(lanes[count], vector))
        return [whole] if count == 4 else [T.Shuffle([whole], [i]) for i in range(count // 4)]

    def round_to_int32(self, value: Expr) -> Expr:
        """float32x4 to int32x4, half to even."""
        if self.neon:
            return self.bind(self.intrinsic("int32x4", "llvm.aarch64.neon.fcvtns.v4i32.v4f32", value))
        return self.bind(self.cast(self.intrinsic("float32x4", "llvm.roundeven.v4f32", value), "int32x4"))

    def sum4(self, vector: Expr) -> Expr:
        """Sum of a float32x4, pairwise, in a fixed order."""
        if self.neon:
            pairs = self.bind(self.intrinsic("float32x4", "llvm.aarch64.neon.faddp.v4f32", vector, vector))
            return T.Shuffle([self.bind(self.intrinsic("float32x4", "llvm.aarch64.neon.faddp.v4f32", pairs, pairs))], [0])
        a, b, c, d = (T.Shuffle([vector], [i]) for i in range(4))
        return (a + b) + (c + d)

    def max4(self, vector: Expr) -> Expr:
        """Largest of a float32x4."""
        if self.neon:
            return self.intrinsic("float32", "llvm.aarch64.neon.fmaxnmv.f32.v4f32", vector)
        a, b, c, d = (T.Shuffle([vector], [i]) for i in range(4))
        return T.max(T.max(a, c), T.max(b, d))

    def to_int8(self, values: list[Expr], qmax: int = INT8_MAX) -> Expr:
        """float32x4 vectors in quantized units, 1, 2 or 4 of them, to one int8 vector: round half to even, saturate, as ONNX
        QuantizeLinear does, and as Clip behind it at +- ``qmax`` where that is less than int8 holds."""
        lanes = 4 * len(values)
        if not self.neon:
            result = [self._to_int8_portable(v, qmax) for v in values]
            return result[0] if lanes == 4 else self.bind(T.Shuffle(result, list(range(lanes))))
        # FCVTNS saturates at int32, SQXTN at int16 and int8: together they are the clamp.
        wide = [self.round_to_int32(v) for v in values]
        halves = [self.bind(self.intrinsic("int16x4", "llvm.aarch64.neon.sqxtn.v4i16", v)) for v in wide]
        if lanes == 4:
            halves *= 2  # SQXTN narrows eight
        pairs = [self.bind(T.Shuffle(halves[i : i + 2], list(range(8)))) for i in range(0, len(halves), 2)]
        bytes_ = [self.bind(self.intrinsic("int8x8", "llvm.aarch64.neon.sqxtn.v8i8", v)) for v in pairs]
        if lanes == 16:
            return self.clamp_int8(self.bind(T.Shuffle(bytes_, list(range(16)))), qmax)
        bytes_ = [self.clamp_int8(v, qmax) for v in bytes_]
        return bytes_[0] if lanes == 8 else self.bind(T.Shuffle(bytes_, [0, 1, 2, 3]))

    def clamp_int8(self, value: Expr, qmax: int) -> Expr:
        """Eight or sixteen int8 on NEON, clipped at +- ``qmax``; as they are where int8 holds no more."""
        if qmax == INT8_MAX:
            return value
        lanes = int(str(value.ty.dtype).rpartition("x")[2])
        low, high = (T.Broadcast(tvm.tirx.const(bound, "int8"), lanes) for bound in (-qmax, qmax))
        least = self.intrinsic(f"int8x{lanes}", f"llvm.smax.v{lanes}i8", value, low)
        return self.bind(self.intrinsic(f"int8x{lanes}", f"llvm.smin.v{lanes}i8", least, high))

    def _to_int8_portable(self, value: Expr, qmax: int) -> Expr:
        least = -128.0 if qmax == INT8_MAX else -float(qmax)
        clamped = self.minimum(self.maximum(value, self.splat(least)), self.splat(float(qmax)))
        return self.bind(self.cast(self.round_to_int32(clamped), "int8x4"))


@contextmanager
def kernel(name: str, target: KernelTarget) -> Iterator[tuple[Builder, Expr]]:
    """Builds a private PrimFunc; yields (builder, batch), batch being its first parameter (int32, streams in the step).

    The finished function is ``builder.result``.
    """
    builder = Builder(target)
    with IRBuilder() as frame, T.prim_func(is_private=True, s_tir=True):
        T.func_name(name)
        batch = T.arg("batch", T.int32())
        T.func_attr({"tirx.noalias": True})
        T.func_ret(PrimType("int32"))
        yield builder, batch
        T.Return(T.int32(0))
    builder.result = frame.get()
