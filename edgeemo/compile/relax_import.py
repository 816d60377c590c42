"""TVM's ONNX importer with edgeemo's converters before its own, and the node's name in what it refuses.

Converters of our own (converters.py) stand where TVM's gives other numbers than ONNX says, or none.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import onnx
import tvm
from edgeemo_runtime.errors import EdgeEmoError
from tvm.relax.frontend.onnx import onnx_frontend

from edgeemo.compile.converters import CONVERTERS

WAY_OUT = "`edgeemo adapt` writes many operators as others; else leave it out of the graph or replace it"


def known_operator(name: str) -> bool:
    return name in CONVERTERS or onnx_frontend._get_convert_map().get(name) is not None


def from_onnx(model: onnx.ModelProto) -> tvm.IRModule:
    """A Relax module whose ``main`` takes the graph's inputs, whose names are identifiers. Raises EdgeEmoError naming the node
    that is not imported."""
    if odd := next((n for n in model.graph.node if n.domain not in ("", "ai.onnx") or not known_operator(n.op_type)), None):
        raise refusal(odd, "the compiler does not have this operator")
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it prints what it refuses, tensors and all
        warnings.simplefilter("ignore")
        importer = _Importer({}, "float32")
        try:
            return importer.from_onnx(model.graph, opset)
        except Exception as error:  # TVM raises its own types for what it does not import
            said = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise refusal(importer.node, f"not imported ({said[:200]})") from error


def refusal(node: onnx.NodeProto, why: str) -> EdgeEmoError:
    kind = f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return EdgeEmoError(f"node {node.name or node.output[0]} ({kind}): {why}; {WAY_OUT}")


class _Importer(onnx_frontend.ONNXGraphImporter):
    node = onnx.NodeProto(name="its inputs")  # which is being converted

    def _parse_value_proto(self, value_proto: Any) -> str:
        if isinstance(value_proto, onnx.NodeProto):  # asked for every node before it is converted
            self.node = value_proto
        return super()._parse_value_proto(value_proto)

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> Any:
        made = CONVERTERS[op_name](self.bb, inputs, attrs, opset) if op_name in CONVERTERS else None
        return super()._convert_operator(op_name, inputs, attrs, opset) if made is None else self.bb.normalize(made)
