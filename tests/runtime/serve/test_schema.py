"""Every event is as docs/live-events-v1.schema.json says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeemo_runtime import PRESETS

from tests.conftest import ROOT, speech
from tests.runtime.serve.conftest import CONFIG, Running
from tests.runtime.serve.talk import pieces, talk

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json.loads((ROOT / "docs" / "live-events-v1.schema.json").read_text())


def test_the_schema_is_one_and_refuses() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check = jsonschema.Draft202012Validator(SCHEMA)
    good = {"v": 1, "type": "handoff", "call": "c", "time": 1.5, "leg": "caller", "reason": "jumping", "at_s": 0.5, "user": None}
    assert check.is_valid(good)
    wrong: list[dict[str, Any]] = [{**good, "v": 2}, {**good, "leg": "both"}, {**good, "reason": ""}, {**good, "type": "end"}, {}]
    assert not any(check.is_valid(document) for document in wrong)


@pytest.mark.slow
def test_a_calls_events_are_as_it_says(serve: Callable[..., Running], artifact: Path) -> None:
    """All kinds of them: with the rules, an unclear beginning is handed off."""
    rules = replace(PRESETS["call-centre"], min_confidence=0.9, decision_s=0.0)
    running = serve(config=replace(CONFIG, decision=rules))
    audio = (np.asarray(speech(3, 30)) * 32767).astype("<i2").tobytes()
    header = json.dumps({"edgeemo": 1, "format": "s16", "rate": 8000, "steps": True, "user": "caller-17"})
    events, _ = talk(running, [header, *pieces(audio, 3200), '{"end": true}'])
    check = jsonschema.Draft202012Validator(SCHEMA)
    for event in events:
        assert check.is_valid(event), next(check.iter_errors(event))
    assert {e["type"] for e in events} == {"begin", "segment", "step", "handoff", "end"}
    running.close()
