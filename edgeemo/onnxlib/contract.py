"""The stream contract: what a step graph says of itself in ``metadata_props``, so that nobody has to guess its states.

docs/stream-contract.md describes the JSON. A model without a contract is stateless: its inputs and outputs are what they are.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import onnx
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.manifest import HEARS

from edgeemo.onnxlib.metadata import STREAM, read_metadata, write_metadata

UPDATES = ("ring", "shift", "replace")


@dataclass(frozen=True)
class State:
    """One state: its graph input and output, its shape without the batch, and how a step changes it.

    update: ``shift`` drops the oldest entries of the first axis and appends new ones; ``ring`` is a shift that compiled code may
    keep in place as a ring; ``replace`` is a new value. All states are zero when a stream begins.
    """

    name: str
    input: str
    output: str
    shape: tuple[int, ...]
    dtype: str
    update: str


@dataclass(frozen=True)
class Intensity:
    """A label's second level: a state of one number, above zero for the second name."""

    label: str
    names: tuple[str, str]
    state: str


@dataclass(frozen=True)
class Listening:
    """A state of one number that counts the steps of speech, and how many of them it takes before a call may have a label."""

    state: str
    least: float


@dataclass(frozen=True)
class StreamContract:
    sample_rate: int  # Hz
    samples_per_step: int
    ring_frames: int  # filterbank frames one answer depends on directly
    ring_samples: int  # the same in samples: what a stream keeps to replay
    labels: tuple[str, ...]
    audio: str  # graph input (batch, samples_per_step) float32
    probabilities: str  # graph output (batch, labels) float32
    states: tuple[State, ...]
    intensity: Intensity | None = None  # where the model has that head
    listening: Listening | None = None  # where it counts speech
    hears: str = "window"  # what an answer is about: the whole ``call`` so far, or a ``window`` of its last seconds

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, source: str) -> StreamContract:
        """Raises EdgeEmoError naming ``source`` and the key that is missing or wrong."""
        try:
            values = json.loads(text)
            states = tuple(State(**{**s, "shape": tuple(s["shape"])}) for s in values.pop("states"))
            level = values.pop("intensity", None)
            level = level and Intensity(**{**level, "names": tuple(level["names"])})
            heard = values.pop("listening", None)
            heard = heard and Listening(heard["state"], float(heard["least"]))
            contract = cls(**{**values, "labels": tuple(values["labels"])}, states=states, intensity=level, listening=heard)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EdgeEmoError(f"{source}: its {STREAM} metadata is not a stream contract ({error})") from error
        if contract.hears not in HEARS:
            raise EdgeEmoError(f"{source}: its stream contract hears {contract.hears!r}, which is none of {', '.join(HEARS)}")
        for state in contract.states:
            if state.update not in UPDATES:
                raise EdgeEmoError(f"{source}: state {state.name}: update {state.update!r} is none of {', '.join(UPDATES)}")
        level = contract.intensity
        if level is not None and (level.label not in contract.labels or level.state not in {s.name for s in contract.states}):
            raise EdgeEmoError(f"{source}: its intensity names the label {level.label!r} and the state {level.state!r}")
        if heard is not None and not (heard.state in {s.name for s in contract.states} and heard.least >= 0):
            raise EdgeEmoError(f"{source}: its listening names the state {heard.state!r} and {heard.least} steps of speech")
        return contract


def write_contract(model: onnx.ModelProto, contract: StreamContract) -> None:
    write_metadata(model, STREAM, contract.to_json())


def read_contract(model: onnx.ModelProto, source: str) -> StreamContract | None:
    """The model's contract, checked against its inputs and outputs; None if it has none."""
    text = read_metadata(model, STREAM)
    if text is None:
        return None
    contract = StreamContract.from_json(text, source)
    inputs, outputs = {i.name for i in model.graph.input}, {o.name for o in model.graph.output}
    wanted_in = {contract.audio, *(s.input for s in contract.states)}
    wanted_out = {contract.probabilities, *(s.output for s in contract.states)}
    if missing := sorted(wanted_in - inputs) + sorted(wanted_out - outputs):
        raise EdgeEmoError(f"{source}: its stream contract names {', '.join(missing)}, which the graph does not have")
    return contract
