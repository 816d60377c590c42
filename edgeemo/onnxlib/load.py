"""Reading an ONNX file that a user names."""

from __future__ import annotations

from pathlib import Path

import onnx
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.onnxlib.tidy import tidy


def load_onnx(path: str | Path) -> onnx.ModelProto:
    """Raises EdgeEmoError naming the file if it is missing or not valid ONNX, or the node or initializer that is not."""
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise EdgeEmoError(
            f"{path}: no such file; `edgeemo export` writes a float model, `edgeemo quantize` an INT8 one"
        ) from error
    except Exception as error:  # protobuf and the checker raise a dozen unrelated types
        raise EdgeEmoError(
            f"{path}: not a valid ONNX model ({(str(error) or type(error).__name__).splitlines()[0][:200]})"
        ) from error
    tidy(model, str(path))
    return model
