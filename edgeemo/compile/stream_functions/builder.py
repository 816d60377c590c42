"""Helpers that both stream functions are written with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

Expr = Any


class FunctionBuilder:
    """Writes a function over arrays of any size."""

    def __init__(self) -> None:
        self.sizes: dict[str, Expr] = {}

    def buffer(self, name: str, dtype: str, *shape: str | int) -> Expr:
        """A parameter; the same name of a size is the same size."""
        sizes = [s if isinstance(s, int) else self.sizes.setdefault(s, T.int64()) for s in shape]
        return T.arg(name, T.buffer(sizes, dtype))

    def local(self, dtype: str, value: Expr, lanes: int = 1) -> Expr:
        """A variable on the stack."""
        made = T.alloc_buffer((lanes,), dtype)
        T.buffer_store(made, value if lanes == 1 else T.Broadcast(value, lanes), [0 if lanes == 1 else T.Ramp(0, 1, lanes)])
        return made

    def when(self, condition: Expr, do: Callable[[], None]) -> None:
        with T.If(condition), T.Then():
            do()


def rounded(product: Expr) -> Expr:
    """A float32 product that no addition takes in unrounded: numpy rounds both."""
    return T.Bind(T.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence.f32", product))
