"""A manifest is a stranger's file: every wrong type, range or name is one line that names the key."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.manifest import parse_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

HASH = "0" * 64
GOOD: dict[str, Any] = {
    "schema": 1,
    "created": "2026-11-26",
    "model": {"file": "m.onnx", "sha256": HASH},
    "target": {"name": "host", "machine": "x86_64", "triple": "x", "cpu": "y", "needs": ["avx2"]},
    "stream": {"sample_rate": 8000, "samples_per_step": 1280, "ring_samples": 5440, "ring_frames": 51, "labels": ["angry", "sad"],
               "audio": "audio", "probabilities": "p", "hears": "call",
               "intensity": {"state": "i", "label": "angry", "names": ["a", "f"]}},
    "step": {"function": "step", "state_words": 20, "arena_bytes_per_stream": 640,
             "inputs": [{"name": "audio", "shape": [1280], "dtype": "float32"}],
             "outputs": [{"name": "p", "shape": [2], "dtype": "float32"}]},
    "around": {"intake": "intake", "decide": "decide",
               "columns": {k: [] for k in ("rules", "memory", "numbers", "flags", "times")}},
    "states": {"i": {"offset_words": 19, "shape": [1]}},
    "files": {"step.so": HASH, "weights.bin": HASH},
}  # fmt: skip


def parsed(manifest: Any) -> dict[str, Any]:
    return parse_manifest(Path("a.edgeemo"), json.dumps(manifest).encode())


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a document."""
    if isinstance(value, dict):
        return [at, *(p for k, v in value.items() for p in paths(v, (*at, k)))]
    if isinstance(value, list):
        return [at, *(p for i, v in enumerate(value) for p in paths(v, (*at, i)))]
    return [at]


def changed(at: tuple[Any, ...], value: Any) -> Any:
    manifest = copy.deepcopy(GOOD)
    place: Any = manifest
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = value
    return manifest


def test_a_sound_one_is_read() -> None:
    assert parsed(GOOD) == GOOD


def test_of_older_artifacts_keys_may_be_missing() -> None:
    old = copy.deepcopy(GOOD)
    del old["around"]["columns"], old["model"], old["stream"]["intensity"], old["stream"]["hears"], old["target"]["needs"]
    assert parsed(old) == old
    del old["around"]
    assert parsed(old) == old
    assert parsed({**old, "around": None, "stream": None})["stream"] is None


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (("created",), "2026-11-26/../../x", "created must be"),
        (("created",), "2026-11-2\n", "created must be"),
        (("step", "arena_bytes_per_stream"), 2**40, "arena_bytes_per_stream must be a whole number"),
        (("step", "arena_bytes_per_stream"), 640.0, "arena_bytes_per_stream must be a whole number"),
        (("step", "state_words"), True, "state_words must be a whole number"),
        (("step", "function"), "a b", "step.function must be"),
        (("stream", "labels"), ["angry", "angry"], "labels must be all different"),
        (("stream", "labels"), ["angry", "\x1b[31m"], r"labels\[1\] must be text"),
        (("stream", "labels"), ["a"] * 3, "labels must be all different"),
        (("stream", "labels"), ["angry", "b", "c"], "step.outputs must be one array of 3"),
        (("stream", "sample_rate"), 1, "sample_rate must be"),
        (("stream", "samples_per_step"), 1279, "step.inputs must be"),
        (("stream", "ring_samples"), 10**12, "ring_samples must be"),
        (("stream", "hears"), "all", "stream.hears must be"),
        (("stream", "intensity", "label"), "x", "one of the labels"),
        (("stream", "intensity", "state"), "x", "a state of one number"),
        (("states", "i", "offset_words"), 20, "within the step's 20 state words"),
        (("target", "needs"), [5], r"needs\[0\] must be"),
        (("files",), [], "files must be an object"),
        (("files", "step.so"), "zz", "files.step.so must be"),
        (("around", "decide"), 5, "around.decide must be"),
        (("around", "intake"), "step", "around.intake must be a function of its own"),
        (("around", "decide"), "step", "around.decide must be a function of its own"),
        (("around", "decide"), "intake", "around.decide must be a function of its own"),
        (("around",), {"intake": "step", "decide": "step"}, "around.intake must be a function of its own"),
    ],
)
def test_each_key_has_a_type_and_a_range(at: tuple[Any, ...], value: Any, words: str) -> None:
    with pytest.raises(EdgeEmoError, match=words) as caught:
        parsed(changed(at, value))
    assert str(caught.value).isprintable() and "a.edgeemo" in str(caught.value)


ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(2**70), st.just("")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=4,
)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.sampled_from([p for p in paths(GOOD) if p]), ODD)
def test_any_value_anywhere_is_read_or_refused(at: tuple[Any, ...], value: Any) -> None:
    try:
        parsed(changed(at, value))
    except EdgeEmoError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[" * 100_000, b"\xff", b"null", b"[]", b'{"schema": "1"}', b'{"schema": null}', b"{}"]
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(EdgeEmoError, match=r"a\.edgeemo"):
        parse_manifest(Path("a.edgeemo"), data)


def test_a_newer_schema_says_what_to_do() -> None:
    with pytest.raises(EdgeEmoError, match="has schema 99, this runtime reads up to 1; upgrade edgeemo-runtime"):
        parsed({"schema": 99})
