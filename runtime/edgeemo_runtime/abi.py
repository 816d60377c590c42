"""The interface between this runtime and an artifact's stream functions: the order of columns in the arrays that both read and
write. Compiled code knows columns by number, so an artifact's manifest holds the order it was built with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeemo_runtime.decision import MEMORY

if TYPE_CHECKING:
    from edgeemo_runtime.artifact import Artifact

RULES = ("alpha", "consistency", "disagreement", "confidence", "min_confidence", "neutral", "decision_s", "settle",
         "settle_decisions", "handoff", "handoff_decisions", "jump_s", "step_s", "step")  # fmt: skip
NUMBERS = ("stream", "label", "handoff", "odd")  # odd, by bits: 1 another step is waiting already, 2 no probabilities
FLAGS = ("low", "jumped", "changed", "decision")
TIMES = ("start_s", "end_s", "since")
SPEECH = ("place", "least")  # of a model: which word of a state row counts steps of speech, -1 where none; what listening takes
WAITING, BAD = 1, 2  # bits of odd
STREAM, LABEL, HANDOFF, ODD = range(len(NUMBERS))
START, END, SINCE = range(len(TIMES))
# The columns' order is the interface between this runtime and an artifact's functions, so it stands in the manifest.
COLUMNS = {"rules": list(RULES), "memory": list(MEMORY), "numbers": list(NUMBERS), "flags": list(FLAGS), "times": list(TIMES),
           "speech": list(SPEECH)}  # fmt: skip
# The order before it stood there.
FIRST_COLUMNS = {
    "rules": ["alpha", "consistency", "disagreement", "confidence", "min_confidence", "neutral", "settle", "settle_steps",
              "handoff", "handoff_steps", "jump_s", "step_s", "step"],
    "memory": ["steps", "answer", "in_row", "label", "since", "streak", "handed_off"],
    "numbers": ["stream", "label", "handoff", "odd"],
    "flags": ["low", "jumped", "changed"],
    "times": ["start_s", "end_s", "since"],
}  # fmt: skip


def load_functions(artifact: Artifact) -> tuple[Any, Any] | None:
    """The artifact's two functions, in calling order; None where it has none or knows other columns: numpy then does it."""
    names = artifact.manifest.get("around")
    if names is None:
        return None
    functions = artifact.load_function(names["intake"]), artifact.load_function(names["decide"])
    return functions if names.get("columns", FIRST_COLUMNS) == COLUMNS else None
