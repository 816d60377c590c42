"""What stands in LLVM's assembly for us: fences go, marks become symbols that a profile finds."""

from __future__ import annotations

import pytest

from edgeemo.compile.link import mark_calls
from edgeemo.compile.step import FIRST_HINT, HINTS, call_of_mark, mark_of_call


def test_fences_go_and_marks_become_symbols() -> None:
    text = "\tadd\tx0, x0, #1\n\tcsdb\n\thint\t#48\n\tbl\t.L_internal_norm\n\thint\t#49\n\tret\n"
    marked = mark_calls(text, ["norm", "gemm"])
    assert "csdb" not in marked
    assert "hint" not in marked
    assert "part001_norm:\n\tbl\tkernel_norm" in marked
    assert marked.index("part002_gemm:") < marked.index("\tret")


@pytest.mark.parametrize("calls", [1, 79, 80, 81, 111, 400])
def test_a_mark_names_its_call_or_the_one_shortly_before(calls: int) -> None:
    for number in range(calls):
        hint = mark_of_call(number, calls)
        assert FIRST_HINT <= hint < FIRST_HINT + HINTS
        assert 0 <= number - call_of_mark(hint, calls) < -(-calls // HINTS)
