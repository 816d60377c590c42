"""Rewriting of LLVM's assembly: barriers go, hints become symbols that a profile finds."""

from __future__ import annotations

from edgeemo.compile.codegen.assembly import hints_of_call, mark_calls


def test_fences_go_and_marks_become_symbols() -> None:
    text = "\tadd\tx0, x0, #1\n\tcsdb\n\thint\t#88\n\tbl\t.L_internal_norm\n\thint\t#89\n\tret\n"
    marked = mark_calls(text, ["norm", "gemm"])
    assert "csdb" not in marked
    assert "hint" not in marked
    assert "part001_norm:\n\tbl\tkernel_norm" in marked
    assert marked.index("part002_gemm:") < marked.index("\tret")


def test_prefetches_are_loads_to_nowhere() -> None:
    text = "\tprfm\tpldl1keep, [x8, #512]\n\tprfm\tpldl1keep, [x8, x9]\n\tprfum\tpldl1keep, [x8, #-64]\n"
    assert mark_calls(text, []) == "\tldr\txzr, [x8, #512]\n\tldr\txzr, [x8, x9]\n\tldur\txzr, [x8, #-64]\n"


def test_prefetches_stay_where_the_target_says_so() -> None:
    text = "\tprfm\tpldl1keep, [x8, #512]\n"
    assert mark_calls(text, [], "prfm") == text


def test_every_call_has_a_mark_of_its_own() -> None:
    calls = [f"kernel{i}" for i in range(2000)]
    text = "".join("\tmov\tx0, x1\n".join(f"\thint\t#{h}\n" for h in hints_of_call(i)) + "\tret\n" for i in range(2000))
    symbols = [line for line in mark_calls(text, calls).splitlines() if line.startswith("part")]
    assert symbols == [f"part{i + 1:03}_kernel{i}:" for i in range(2000)]


def test_what_is_fused_many_times_over_is_named_once() -> None:
    text = f"\thint\t#{hints_of_call(0)[0]}\n"
    assert "part001_fused_strided_slice_multiply1_add:" in mark_calls(text, ["fused_strided_slice_strided_slice13_multiply1_add"])
    assert "part001_gemm_s8_rows3_k256_n256:" in mark_calls(text, ["gemm_s8_rows3_k256_n256"])
