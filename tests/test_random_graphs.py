"""A sample of tests/random_graphs.py: each graph is refused in one line, or gives ONNX Runtime's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.random_graphs import outcome, random_graph

pytestmark = pytest.mark.slow


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6))
def test_random_graphs_match_or_are_refused(tmp_path: Path, seed: int) -> None:
    found = outcome(random_graph(seed), tmp_path)
    assert found == "match" or found.startswith("refused: "), f"python -m tests.random_graphs 1 {seed}: {found}"
