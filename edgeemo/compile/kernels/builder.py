"""A thin layer over TVM's IRBuilder: private kernels that take pointers, and the few vector idioms all kernels share.

A kernel is a private PrimFunc of (batch, pointers...). It is called from the one exported step function (compile/step.py), so
LLVM sees both and inlines or keeps it. Scratch is a few vectors on the stack: TVM turns an allocation of 1 KiB or more into a
call to a workspace hook that the slim runtime does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm
from tvm.ir import PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

FLAT = 1 << 30  # a flat view of a pointer needs some extent; nothing checks it
Expr = Any  # tvm.ir.Expr; TVM ships no stubs


class Builder:
    """What a kernel's body is written with. All indices count elements of the buffer's dtype."""

    def __init__(self, neon: bool) -> None:
        self.neon = neon
        self.result: tvm.tirx.PrimFunc | None = None

    # -- parameters and memory -------------------------------------------------------------------------------------------
    def pointers(self, dtypes: dict[str, str]) -> dict[str, Expr]:
        """The kernel's pointer parameters, in order, as flat buffers. Called once, first: TVM takes no parameter after a body."""
        arguments = {name: T.arg(name, T.handle(dtype)) for name, dtype in dtypes.items()}
        return {name: T.decl_buffer((FLAT,), dtype, data=arguments[name]) for name, dtype in dtypes.items()}

    def scratch(self, size: int, dtype: str = "float32") -> Expr:
        return T.alloc_buffer((size,), dtype)

    def load(self, buffer: Expr, index: Expr, lanes: int = 4) -> Expr:
        return T.Bind(buffer[index if lanes == 1 else T.Ramp(index, 1, lanes)])

    def store(self, buffer: Expr, value: Expr, index: Expr, lanes: int = 4) -> None:
        T.buffer_store(buffer, value, [index if lanes == 1 else T.Ramp(index, 1, lanes)])

    def bind(self, value: Expr) -> Expr:
        return T.Bind(value)

    # -- values ----------------------------------------------------------------------------------------------------------
    def splat(self, value: Expr | float, lanes: int = 4) -> Expr:
        return T.Broadcast(T.float32(value) if isinstance(value, (int, float)) else value, lanes)

    def zeros(self, dtype: str, lanes: int) -> Expr:
        return T.Broadcast(T.float32(0) if dtype == "float32" else tvm.tirx.const(0, dtype), lanes)

    def cast(self, value: Expr, dtype: str) -> Expr:
        return T.Cast(dtype, value)

    def intrinsic(self, dtype: str, name: str, *args: Expr) -> Expr:
        return T.call_llvm_pure_intrin(dtype, name, *args)

    def fma(self, a: Expr, b: Expr, c: Expr, lanes: int = 4) -> Expr:
        """a * b + c, fused where the target fuses it (FMLA, VFMADD), never a call to libm."""
        suffix = "f32" if lanes == 1 else f"v{lanes}f32"
        dtype = "float32" if lanes == 1 else f"float32x{lanes}"
        return self.intrinsic(dtype, f"llvm.fmuladd.{suffix}", a, b, c)

    def maximum(self, a: Expr, b: Expr, lanes: int = 4) -> Expr:
        return self.intrinsic(f"float32x{lanes}", f"llvm.maxnum.v{lanes}f32", a, b)

    def minimum(self, a: Expr, b: Expr, lanes: int = 4) -> Expr:
        return self.intrinsic(f"float32x{lanes}", f"llvm.minnum.v{lanes}f32", a, b)

    def sum4(self, vector: Expr) -> Expr:
        """Sum of a float32x4, pairwise, in a fixed order."""
        a, b, c, d = (T.Shuffle([vector], [i]) for i in range(4))
        return (a + b) + (c + d)

    def to_int8(self, value: Expr) -> Expr:
        """float32x4 in quantized units to int8x4: round half to even, saturate, as ONNX QuantizeLinear does."""
        clamped = self.minimum(self.maximum(value, self.splat(-128.0)), self.splat(127.0))
        if self.neon:
            rounded = self.intrinsic("int32x4", "llvm.aarch64.neon.fcvtns.v4i32.v4f32", clamped)
        else:
            rounded = self.cast(self.intrinsic("float32x4", "llvm.roundeven.v4f32", clamped), "int32x4")
        return self.cast(rounded, "int8x4")


@contextmanager
def kernel(name: str, neon: bool) -> Iterator[tuple[Builder, Expr]]:
    """Builds a private PrimFunc; yields (builder, batch), batch being its first parameter (int32, streams in the step).

    The finished function is ``builder.result``.
    """
    builder = Builder(neon)
    with IRBuilder() as frame, T.prim_func(is_private=True, s_tir=True):
        T.func_name(name)
        batch = T.arg("batch", T.int32())
        T.func_attr({"tirx.noalias": True})
        T.func_ret(PrimType("int32"))
        yield builder, batch
        T.Return(T.int32(0))
    builder.result = frame.get()
