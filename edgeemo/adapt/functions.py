"""Operators that ONNX itself defines by others, and the compiler does not have: their definitions in their place."""

from __future__ import annotations

import onnx
import onnx.inliner
from edgeemo_runtime.errors import EdgeEmoError
from onnx import defs

from edgeemo.onnxlib.graph import label

# ONNX Runtime has kernels of its own for these; what it has none for, it replaces by its definition itself.
EXPANDED = (
    "Attention", "RotaryEmbedding", "AffineGrid", "CenterCropPad", "Celu", "MeanVarianceNormalization", "ThresholdedRelu",
    "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "Swish", "LinearAttention", "CausalConvWithState",
)  # fmt: skip
DOMAIN = "edgeemo.expanded"


def expand_functions(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """``model`` itself where it has no such operator. Raises EdgeEmoError naming one that ONNX does not define for its inputs."""
    nodes = [n for n in model.graph.node if n.domain in ("", "ai.onnx") and n.op_type in EXPANDED]
    if not nodes:
        return model
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    opset = next(o.version for o in plain.opset_import if o.domain in ("", "ai.onnx"))
    inferred = onnx.shape_inference.infer_shapes(plain)
    types = {v.name: v.type for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}
    for tensor in plain.graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    for number, node in enumerate(n for n in plain.graph.node if n.domain in ("", "ai.onnx") and n.op_type in EXPANDED):
        function = _definition(node, opset, types, source)
        node.op_type = f"{node.op_type}_{number}"
        node.domain = function.domain = DOMAIN
        function.name = node.op_type
        plain.functions.append(function)
    plain.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    plain = onnx.inliner.inline_local_functions(plain)
    kept = [o for o in plain.opset_import if o.domain != DOMAIN]
    del plain.opset_import[:]
    plain.opset_import.extend(kept)
    return plain


def _definition(node: onnx.NodeProto, opset: int, types: dict[str, onnx.TypeProto], source: str) -> onnx.FunctionProto:
    schema = defs.get_schema(node.op_type, opset, "")
    function = onnx.FunctionProto()
    data = b""
    if schema.has_context_dependent_function:
        kinds = [types[n].SerializeToString() if n else b"" for n in node.input if n in types or not n]
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        if versions and len(kinds) == len(node.input):
            data = schema.get_context_dependent_function_with_opset_version(max(versions), node.SerializeToString(), kinds)
    elif schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        data = schema.get_function_with_opset_version(max(versions)) if versions else b""
    if not data:
        raise EdgeEmoError(
            f"{source}: node {label(node)} ({node.op_type}): the compiler does not have it, and ONNX defines it by no others; "
            "leave it out of the graph, or export the model without it"
        )
    function.ParseFromString(data)
    del function.opset_import[:]
    function.opset_import.append(onnx.helper.make_opsetid("", opset))
    given = {a.name for a in node.attribute}
    defaults = (schema.attributes[name].default_value for name in function.attribute if name not in given)
    node.attribute.extend(a for a in defaults if a.type)
    return function
