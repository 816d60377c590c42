"""The cost of a step may not grow unseen: figures that are the same on every machine, against the accepted ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.aarch64 import board
from tests.aarch64.instructions import ACCEPTED, measure

pytestmark = [pytest.mark.slow, pytest.mark.qemu, pytest.mark.skipif(not board.available(), reason=board.REASON)]
TOLERANCE = 0.005  # Python around the step is in the count, and may be another patch release


def test_no_more_instructions_code_or_symbols_than_accepted(board_artifact: Path) -> None:
    accepted, now = json.loads(ACCEPTED.read_text()), measure(board_artifact)
    again = f"if the change is meant: make run && python -m tests.aarch64.instructions writes {ACCEPTED.name}"
    for streams, count in accepted["instructions_per_step"].items():
        assert now["instructions_per_step"][streams] <= count * (1 + TOLERANCE), again
    assert now["code_bytes"] <= accepted["code_bytes"] * (1 + TOLERANCE), again
    assert now["undefined_symbols"] == accepted["undefined_symbols"], again
