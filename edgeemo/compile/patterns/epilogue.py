"""Matches a product's epilogue, computed with it as long as each value has one user:

times and plus what is known (per column) -> activation -> + residual -> quantize -> clip.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from tvm import relax

from edgeemo.compile.ir import Expr, Graph, Var, call_kernel, static_shape
from edgeemo.compile.patterns import activation, channels_last
from edgeemo.compile.patterns.quantize import end_of_quantize
from edgeemo.compile.patterns.weights import constant_bias
from edgeemo.targets.capabilities import INT8_MAX


@dataclass
class Epilogue:
    """``factor``, ``bias`` behind it, and ``inverse``, 1 / output scale, are per column."""

    end: Var  # the last variable that it absorbs
    channels_first: bool  # whether that one is
    factor: np.ndarray | None = None
    bias: np.ndarray | None = None
    activation: str = ""
    residual: Expr | None = None
    inverse: np.ndarray | None = None
    qmax: int = INT8_MAX  # magnitude of what is quantized

    def add_bias(self, offset: np.ndarray | None) -> None:
        if offset is not None:
            self.bias = offset if self.bias is None else self.bias + offset

    def multiply(self, factor: np.ndarray) -> None:
        self.factor = factor if self.factor is None else self.factor * factor
        self.bias = None if self.bias is None else self.bias * factor

    @property
    def scalable(self) -> bool:
        """Whether nothing but relu is between the sums and the rounding."""
        return self.inverse is not None and self.activation in ("", "relu") and self.residual is None

    def scaled(self, scale: np.ndarray) -> np.ndarray:
        """The sums' ``scale`` with the output's in it; the bias takes it in, too, and ``inverse`` is gone. Where ``scalable``."""
        assert self.scalable and self.inverse is not None
        scale = scale * self.inverse
        self.bias = None if self.bias is None else self.bias * self.inverse
        self.inverse = None
        return scale


def follow(graph: Graph, root: Var, n: int, conv: bool, int8: bool, takes: Collection[str]) -> Epilogue:
    """Epilogue of a product of ``n`` columns. ``conv``: ``root`` is channels-first; ``int8``: its sums are integers, so that
    every column may have an output scale of its own. ``takes``: what there is for it besides bias: factor, names of activations,
    residual, quantize."""
    done = Epilogue(root, conv)
    while True:
        plain = not done.activation and done.residual is None
        found = activation.find(graph, done.end) if plain else None
        if found is not None and found[0] in takes:
            done.activation, done.end = found
            continue
        user = graph.only_user(done.end)
        if user is None:
            break
        if done.channels_first and graph.is_op(user, "permute_dims") and _to_last(graph, user):
            done.channels_first = False
        elif graph.is_op(user, "reshape") and done.residual is None and _same_columns(user, n) and not conv:
            pass
        elif plain and graph.is_op(user, "add") and (known := _per_column(graph, user, done, n)) is not None:
            done.add_bias(known)
        elif (
            plain
            and "factor" in takes
            and graph.is_op(user, "multiply")
            and (known := _per_column(graph, user, done, n)) is not None
        ):
            done.multiply(known)
        elif graph.is_op(user, "add"):
            other = _other(graph, user, done.end)
            if (
                "residual" not in takes
                or done.residual is not None
                or done.channels_first
                or not isinstance(other, relax.Var)
                or other == done.end
                or graph.constant(other) is not None
                or static_shape(other) != static_shape(done.end)
                or graph.place.get(other, -1) >= graph.place[user]
            ):
                break
            done.residual = other
        elif graph.is_op(user, "quantize") and "quantize" in takes:
            scale, zero = graph.constant(graph.args(user)[1]), graph.scalar(graph.args(user)[2])
            if scale is None or zero != 0 or user.ty.dtype != "int8":
                break
            if scale.size == 1:
                scale = np.broadcast_to(scale.reshape(-1), (n,))
            elif scale.size != n or done.activation not in ("", "relu") or done.residual is not None or not int8:
                break
            done.inverse, done.end = 1.0 / scale.astype(np.float64), end_of_quantize(graph, user)
            done.qmax = graph.qmax.get(done.end, INT8_MAX)
            break
        else:
            break
        done.end = user
    return done


def rebind(
    graph: Graph,
    after: Epilogue,
    kernel: str,
    args: list[Expr],
    before: channels_last.Bindings,
    transposed: channels_last.Transposed,
) -> None:
    """Binds the epilogue's end to a call of ``kernel``, whose results are channels-last."""
    if not after.channels_first:
        graph.rebind(after.end, call_kernel(kernel, args, after.end), before)
        return
    last = channels_last.like_last(after.end)
    graph.value[last] = call_kernel(kernel, args, last)
    channels_last.channels_first(graph, after.end, transposed, before, last)


def _other(graph: Graph, user: Var, var: Var) -> Expr:
    a, b = graph.args(user)
    return b if a == var else a


def _per_column(graph: Graph, user: Var, done: Epilogue, n: int) -> np.ndarray | None:
    """The constant operand of a binary operator on the values so far, per column: (n,). None where it differs by anything
    else."""
    other = _other(graph, user, done.end)
    array = constant_bias(graph, other)
    if array is None or other == done.end:
        return None
    if array.size == 1:
        return np.full(n, array.reshape(-1)[0])
    rank = len(static_shape(done.end))
    shape = [*[1] * (rank - len(static_shape(other))), *static_shape(other)]
    return array.reshape(-1) if array.size == n and shape[1 if done.channels_first else -1] == n else None


def _to_last(graph: Graph, var: Var) -> bool:
    axes = [int(a) for a in graph.attrs(var).axes]
    return axes == channels_last.LAST.get(len(axes))


def _same_columns(var: Var, n: int) -> bool:
    """Whether a reshape keeps the last axis, so that rows stay rows."""
    return static_shape(var)[-1] == n and len(static_shape(var)) >= 2
