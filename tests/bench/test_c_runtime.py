"""The C runtime compared with Python's: the same work measured in both, and the table of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.bench.c_runtime import build, on_this_machine, rows


def test_rows() -> None:
    python = {"resident_mb": 58.27, "ready_ms": 439.9, "step_ms": 12.6, "compiled_ms": 12.0}
    c = {"resident_mb": 18.5, "ready_ms": 24.96, "step_ms": 12.06, "compiled_ms": 12.0}
    found = {"host": {"Python": python, "C": c}}
    assert rows("tiny", found) == [
        ["tiny", "resident, at most, 80 calls (MB)", "58.3", "18.5"],
        ["tiny", "ready: until the first answer (ms)", "440", "25.0"],
        ["tiny", "step of 8 calls (ms)", "12.60", "12.06"],
        ["tiny", "over the compiled step", "x 1.050", "x 1.005"],
    ]
    modelled = {"compiled": 2e7, "C": 2.02e7, "compiled_in_python": 2.05e7, "Python": 2.46e7}
    assert [line[1:] for line in rows("tiny", {**found, "modelled": modelled})[4:]] == [
        ["Cortex-A72, modelled: step (M cycles)", "24.60", "20.20"],
        ["Cortex-A72, modelled: over the compiled step", "x 1.200", "x 1.010"],
    ]


@pytest.mark.slow
def test_both_are_measured(host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    found = on_this_machine(host_artifacts["int8"], build(tmp_path / "here", "cc"))
    for runtime in ("Python", "C"):
        assert all(value > 0 for value in found[runtime].values())
    assert found["C"]["resident_mb"] < 25 < found["Python"]["resident_mb"] < 100
    with pytest.raises(EdgeEmoError, match="does not compile"):
        build(tmp_path / "none" / "here", "cc")
