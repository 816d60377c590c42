"""edgeemo-runtime: runs compiled emotion models on a board. Needs numpy and apache-tvm-ffi, and [files] for files."""

from edgeemo_runtime import process  # noqa: F401 - before numpy is imported

# isort: split
from edgeemo_runtime.artifact import Artifact, load_artifact
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.decision import PRESETS, DecisionRules
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.function import Function
from edgeemo_runtime.results import Result, StepResults
from edgeemo_runtime.stream import OverloadError, Stream

__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "Artifact",
    "AudioRules",
    "DecisionRules",
    "EdgeEmoError",
    "Engine",
    "Function",
    "OverloadError",
    "Result",
    "StepResults",
    "Stream",
    "load_artifact",
]
