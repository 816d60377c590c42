"""A sample of `make fuzz`, and every input that once found something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SEEDS = json.loads((Path(__file__).parent / "seeds.json").read_text())
SAMPLE = 150


@pytest.fixture(scope="module", autouse=True)
def artifact(host_artifacts: dict[str, Path]) -> None:
    import tests.fuzz.targets as targets

    targets.ARTIFACT = host_artifacts["int8"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SEEDS))
def test_a_sample(name: str) -> None:
    from tests.fuzz.run import Found, batch, fuzz
    from tests.fuzz.targets import TARGETS

    found = fuzz(name, max(5, min(SAMPLE, TARGETS[name].inputs // 200)))
    for number in SEEDS[name]:
        batch(TARGETS[name], range(number, number + 1), found)
    assert isinstance(found, Found) and found.inputs
    assert not found.tracebacks and not found.signals, found.examples
