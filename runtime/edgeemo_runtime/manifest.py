"""The manifest's schema: the type and range of every key, and which values must agree with each other.

A manifest is a stranger's file. Everything that the runtime reads of it has been through ``check_manifest``, so that no other
code asks what kind of value it holds, and no memory is taken for a size that is out of all proportion.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeemo_runtime.errors import EdgeEmoError, printable
from edgeemo_runtime.rates import MAX_RATE, MIN_RATE

SCHEMA = 1
MANIFEST, LIBRARY, WEIGHTS = "manifest.json", "step.so", "weights.bin"
DATE = re.compile(r"\d{4}-\d\d-\d\d")
HASH = re.compile(r"[0-9a-f]{64}")
FUNCTION = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
WORD = re.compile(r"[\w.+-]{1,64}", re.ASCII)
MAX_STATE_WORDS = 1 << 26  # float32 words of one stream
MAX_ARENA_BYTES = 1 << 31  # of one stream
MAX_RING_S = 600  # seconds of audio that a ring may hold, and a step may take
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")

Check = Callable[[str, Any], None]


class _SchemaError(Exception):
    """A value that the schema does not allow; its text names the key."""


def _expect(good: bool, where: str, what: str, value: Any) -> None:
    if not good:
        raise _SchemaError(f"{where} must be {what}, not {printable(repr(value)[:60])}")


def integer(low: int, high: int) -> Check:
    def check(where: str, value: Any) -> None:
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        _expect(good, where, f"a whole number from {low} to {high}", value)

    return check


def number(low: float, high: float) -> Check:
    def check(where: str, value: Any) -> None:
        good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        _expect(good, where, f"a number from {low} to {high}", value)

    return check


def text(longest: int = 255, pattern: re.Pattern[str] | None = None) -> Check:
    def check(where: str, value: Any) -> None:
        good = isinstance(value, str) and 0 < len(value) <= longest and value == printable(value)
        _expect(good, where, f"text of 1 to {longest} printable characters", value)
        _expect(pattern is None or pattern.fullmatch(value) is not None, where, "of the form " + (pattern or DATE).pattern, value)

    return check


def choice(*values: str) -> Check:
    return lambda where, value: _expect(isinstance(value, str) and value in values, where, f"one of {', '.join(values)}", value)


def array(item: Check, most: int, least: int = 0) -> Check:
    def check(where: str, value: Any) -> None:
        _expect(isinstance(value, list) and least <= len(value) <= most, where, f"a list of {least} to {most} items", value)
        for i, one in enumerate(value):
            item(f"{where}[{i}]", one)

    return check


def record(required: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    """An object with these keys; what else it holds is for other readers."""

    def check(where: str, value: Any) -> None:
        _expect(isinstance(value, dict), where, "an object", value)
        if missing := [k for k in required if k not in value]:
            raise _SchemaError(f"{where} lacks {', '.join(missing)}")
        for key, of_key in {**required, **(optional or {})}.items():
            if key in value:
                of_key(f"{where}.{key}" if where != "it" else key, value[key])

    return check


def table(item: Check, most: int) -> Check:
    """An object whose keys are names."""

    def check(where: str, value: Any) -> None:
        _expect(isinstance(value, dict) and len(value) <= most, where, f"an object of at most {most} entries", value)
        for key, one in value.items():
            text(1000)(f"a name in {where}", key)
            item(f"{where}.{key}", one)

    return check


def nullable(check: Check) -> Check:
    return lambda where, value: None if value is None else check(where, value)


HEARS = ("call", "window")  # what an answer is about: all of the call so far, or its last seconds
_SHAPE = array(integer(0, 1 << 31), 16)
_TENSOR = record({"name": text(1000), "shape": _SHAPE, "dtype": choice(*DTYPES)})
_NAMES = array(text(64), 256)
_LISTENING = record({"state": text(), "least": number(0, 1e6)})
_INTENSITY = record({"state": text(), "label": text(), "names": array(text(), 2, 2)})
_STREAM = record(
    {
        "sample_rate": integer(MIN_RATE, MAX_RATE),
        "samples_per_step": integer(1, MAX_RING_S * MAX_RATE),
        "ring_samples": integer(0, MAX_RING_S * MAX_RATE),
        "labels": array(text(), 256, 1),
    },
    {
        "intensity": nullable(_INTENSITY),
        "listening": nullable(_LISTENING),
        "audio": text(1000),
        "probabilities": text(1000),
        "ring_frames": integer(0, 1 << 31),
        "hears": choice(*HEARS),
    },
)
_COLUMNS = record(dict.fromkeys(("rules", "memory", "numbers", "flags", "times"), _NAMES), {"speech": _NAMES})
_FUNCTIONS = record({"intake": text(64, FUNCTION), "decide": text(64, FUNCTION)}, {"columns": _COLUMNS})
_SCHEMA = record(
    {
        "schema": integer(1, SCHEMA),
        "created": text(10, DATE),
        "target": record(
            {"name": text(64), "machine": text(64, WORD), "cpu": text(64)}, {"needs": array(text(64, WORD), 64), "triple": text()}
        ),
        "step": record(
            {
                "function": text(64, FUNCTION),
                "state_words": integer(0, MAX_STATE_WORDS),
                "arena_bytes_per_stream": integer(0, MAX_ARENA_BYTES),
                "inputs": array(_TENSOR, 1024),
                "outputs": array(_TENSOR, 1024, 1),
            }
        ),
        "stream": nullable(_STREAM),
        "states": table(record({"offset_words": integer(0, MAX_STATE_WORDS), "shape": _SHAPE}), 4096),
        "files": record({name: text(64, HASH) for name in (LIBRARY, WEIGHTS)}),
    },
    {
        "around": nullable(_FUNCTIONS),
        "model": record({}, {"file": text(1000), "sha256": text(64, HASH)}),
        "macs_per_step": integer(0, 1 << 53),
        "int8_macs_per_step": integer(0, 1 << 53),
        "estimate": nullable(record({"cycles_per_step": integer(1, 1 << 53), "mhz": integer(1, 1 << 20)})),
    },
)


def parse_manifest(path: Path, data: bytes) -> dict[str, Any]:
    """The manifest of the artifact at ``path``. Raises EdgeEmoError, one line, for what this runtime does not understand."""
    try:
        manifest = json.loads(data)
        schema = manifest["schema"]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise EdgeEmoError(f"{path}: has no readable {MANIFEST}; is it an edgeemo artifact?") from error
    if isinstance(schema, int) and schema > SCHEMA:
        raise EdgeEmoError(f"{path}: has schema {schema}, this runtime reads up to {SCHEMA}; upgrade edgeemo-runtime")
    try:
        check_manifest(manifest)
    except _SchemaError as error:
        raise EdgeEmoError(f"{path}: its manifest is not sound: {error}; compile it again") from error
    return dict(manifest)


def check_manifest(manifest: Any) -> None:
    """Raises _SchemaError naming the key that is wrong."""
    _SCHEMA("it", manifest)
    words = manifest["step"]["state_words"]
    for name, state in manifest["states"].items():
        offset = state["offset_words"]
        _expect(offset < max(1, words), f"states.{name}.offset_words", f"within the step's {words} state words", offset)
    if (functions := manifest.get("around")) is not None:
        taken = [manifest["step"]["function"]]
        for key in ("intake", "decide"):
            _expect(functions[key] not in taken, f"around.{key}", "a function of its own", functions[key])
            taken.append(functions[key])
    if manifest["stream"] is not None:
        _check_stream(manifest)


def _check_stream(manifest: dict[str, Any]) -> None:
    """Checks that the stream's numbers are those of the compiled step's inputs and outputs."""
    stream, step = manifest["stream"], manifest["step"]
    labels, rate = stream["labels"], stream["sample_rate"]
    _expect(len(set(labels)) == len(labels), "stream.labels", "all different", labels)
    for key in ("samples_per_step", "ring_samples"):
        _expect(stream[key] <= MAX_RING_S * rate, f"stream.{key}", f"at most {MAX_RING_S} s at {rate} Hz", stream[key])
    shapes = [t["shape"] for t in step["inputs"]]
    _expect(shapes == [[stream["samples_per_step"]]], "step.inputs", "one array of stream.samples_per_step", shapes)
    shapes = [t["shape"] for t in step["outputs"]]
    _expect(shapes == [[len(labels)]], "step.outputs", f"one array of {len(labels)} labels' probabilities", shapes)
    if level := stream.get("intensity"):
        _expect(level["label"] in labels, "stream.intensity.label", "one of the labels", level["label"])
    for key in ("intensity", "listening"):
        if about := stream.get(key):
            state = manifest["states"].get(about["state"])
            _expect(state is not None and math.prod(state["shape"]) == 1, f"stream.{key}.state", "a state of one number", state)
