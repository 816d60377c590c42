"""Which way every operator of a graph goes: a kernel of ours in INT8 or float, TVM's stock code, or nowhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
from edgeemo_runtime.errors import EdgeEmoError, first_line

from edgeemo.compile.importer import import_onnx
from edgeemo.compile.ir import KernelTable
from edgeemo.compile.pipeline import lower
from edgeemo.compile.relax_import import known_operator
from edgeemo.compile.unfused import weighted_products
from edgeemo.onnxlib.load import load_onnx
from edgeemo.targets.board import BoardTarget

STOCK_MACS_PER_CYCLE = 0.25  # of a stock product on the Cortex-A72, modelled with a perfect cache (TVM's scalar float32 loops)
WORTH_A_WORD = 0.01  # of all MACs
PATHS = {"s8": "int8 kernel", "f16": "fp16 kernel", "f32": "float kernel"}


@dataclass(frozen=True)
class Product:
    """A MatMul, Gemm or Conv with constant weights. ``path``: of PATHS, or stock; None where the graph does not compile."""

    name: str
    op: str
    path: str | None
    macs: int
    weight_bytes: int
    note: str


@dataclass(frozen=True)
class Inspection:
    """``others``: how many nodes of each other operator. ``unsupported``: nodes that TVM's importer does not know. ``problem``:
    why the graph does not compile, None where it does."""

    products: tuple[Product, ...]
    others: dict[str, int]
    unsupported: tuple[str, ...]
    problem: str | None


def inspect(path: Path, board: BoardTarget) -> Inspection:
    """Goes as far as code generation would, without generating any. Raises EdgeEmoError where the file cannot be read."""
    model = load_onnx(path)
    unsupported = tuple(
        f"{n.name or n.output[0]} ({n.domain + ':' if n.domain else ''}{n.op_type})" for n in model.graph.node
        if n.domain not in ("", "ai.onnx") or not known_operator(n.op_type)
    )  # fmt: skip
    products = weighted_products(model)
    taken: list[str | None] = [None] * len(products)
    problem = f"no lowering for {', '.join(unsupported[:5])}" if unsupported else None
    if problem is None:
        try:
            table = KernelTable(board.kernels)
            lower(import_onnx(model, str(path)), table, lambda name, text: None)
            if len(table.products) == len(products):
                taken = [PATHS.get(p or "", "stock") for p in table.products]
        except Exception as error:  # TVM raises its own types for what it does not lower
            problem = str(error) if isinstance(error, EdgeEmoError) else f"not lowered ({first_line(error)})"
    total = max(sum(macs for _, macs, _ in products), 1)
    rows = tuple(
        Product(n.name or n.output[0], n.op_type, way, macs, size, _note(n, way, macs, total))
        for (n, macs, size), way in zip(products, taken, strict=True)
    )
    named = {r.name for r in rows}
    others = Counter(n.op_type for n in model.graph.node if (n.name or n.output[0]) not in named)
    return Inspection(rows, dict(others.most_common()), unsupported, problem)


def _note(node: onnx.NodeProto, path: str | None, macs: int, total: int) -> str:
    if path != "stock" or macs < WORTH_A_WORD * total:
        return ""
    return f"slow: {macs / total:.0%} of the MACs, about {macs / STOCK_MACS_PER_CYCLE / 1e6:.1f} M cycles on an A72 (modelled)"
