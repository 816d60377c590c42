"""edgeemo-runtime: runs compiled emotion models on a board. Needs numpy and apache-tvm-ffi, and [files] for files."""

from edgeemo_runtime.artifact import Artifact, load_artifact
from edgeemo_runtime.engine import Engine, Result, StepResults, Stream
from edgeemo_runtime.errors import EdgeEmoError

__version__ = "0.1.0"
__all__ = ["Artifact", "EdgeEmoError", "Engine", "Result", "StepResults", "Stream", "load_artifact"]
