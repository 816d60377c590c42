"""Activations in a graph: one operator, or the few that exporters make of one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import tirx

from edgeemo.compile.ir import Graph, Var

WHOLE = {"relax.nn.relu": "relu", "relax.nn.gelu": "gelu", "relax.nn.silu": "silu"}


def find(graph: Graph, root: Var) -> tuple[str, Var] | None:
    """The activation (by its name in kernels/vector_math.py) that is all that uses ``root``, and the variable that it ends in."""
    users = graph.users.get(root, [])
    if len(users) == 1 and users[0] is not None:
        name = WHOLE.get(graph.op(users[0]))
        return (name, users[0]) if name else _relu6(graph, root)
    if len(users) == 2 and None not in users:
        for gate, product in (users, users[::-1]):
            found = _gated(graph, root, gate, product)
            if found is not None:
                return found
    return None


@dataclass
class _Gate:
    """factor * clip(alpha x + beta, low, high)."""

    alpha: float = 1.0
    beta: float = 0.0
    low: float | None = None
    high: float | None = None
    factor: float = 1.0

    def take(self, graph: Graph, before: Var, var: Var) -> bool:
        """Whether ``var`` is one more of these operators on ``before``, each bound given once."""
        scale, summand = _scaled(graph, before, var), _added(graph, before, var)
        clipped = self.low is not None or self.high is not None
        if scale is not None and clipped:
            self.factor *= scale
        elif scale is not None:
            self.alpha, self.beta = self.alpha * scale, self.beta * scale
        elif summand is not None and not clipped:
            self.beta += summand
        elif self.factor != 1.0:
            return False
        elif graph.is_op(var, "clip") and not clipped:
            self.low, self.high = (_number(graph, bound) for bound in graph.args(var)[1:])
        elif graph.is_op(var, "maximum") and self.low is None:
            self.low = _other(graph, before, var)
            return self.low is not None
        elif graph.is_op(var, "minimum") and self.high is None:
            self.high = _other(graph, before, var)
            return self.high is not None
        else:
            return False
        return True


def _relu6(graph: Graph, root: Var) -> tuple[str, Var] | None:
    """clip(x, 0, 6)."""
    gate, var, user = _Gate(), root, graph.only_user(root)
    while user is not None and gate.take(graph, var, user):
        if gate == _Gate(low=0.0, high=6.0):
            return "relu6", user
        var, user = user, graph.only_user(user)
    return None


def _gated(graph: Graph, root: Var, first: Var, product: Var) -> tuple[str, Var] | None:
    """x sigmoid(x), or x clip(x / 6 + 1 / 2, 0, 1) with the sixth anywhere. ``first`` is where the gate begins."""
    if not graph.is_op(product, "multiply"):
        return None
    if graph.is_op(first, "sigmoid"):
        return ("silu", product) if _is_product(graph, product, root, first) else None
    gate, var, user = _Gate(), root, first
    while user is not None and user != product and gate.take(graph, var, user):
        var, user = user, graph.only_user(user)
    if user != product or not _is_product(graph, product, root, var) or gate.low != 0.0 or not gate.high:
        return None
    whole, end = gate.factor * gate.high, product
    if not math.isclose(whole, 1.0, rel_tol=1e-6) and (after := graph.only_user(product)) is not None:
        whole, end = whole * (_scaled(graph, product, after) or 0.0), after
    wanted = ((whole, 1.0), (gate.alpha / gate.high, 1 / 6), (gate.beta / gate.high, 0.5))
    return ("hard_swish", end) if all(math.isclose(a, b, rel_tol=1e-6) for a, b in wanted) else None


def _is_product(graph: Graph, var: Var, x: Var, gate: Var) -> bool:
    a, b = graph.args(var)
    return (a == x and b == gate) or (a == gate and b == x)


def _number(graph: Graph, value: object) -> float | None:
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, (tirx.IntImm, tirx.FloatImm)):
        return float(value.value)
    return graph.scalar(value)


def _other(graph: Graph, before: Var, var: Var) -> float | None:
    """The number that an operator of two has next to ``before``."""
    a, b = graph.args(var)
    return graph.scalar(b if a == before else a)


def _scaled(graph: Graph, before: Var, var: Var) -> float | None:
    """Factor of ``before`` where ``var`` is its product with a number."""
    if graph.is_op(var, "multiply"):
        return _other(graph, before, var)
    if graph.is_op(var, "divide") and graph.args(var)[0] == before:
        divisor = graph.scalar(graph.args(var)[1])
        return 1.0 / divisor if divisor else None
    return None


def _added(graph: Graph, before: Var, var: Var) -> float | None:
    return _other(graph, before, var) if graph.is_op(var, "add") else None
