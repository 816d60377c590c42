"""Rewriting of LLVM's assembly: barriers go, prefetches become what the target has for them."""

from __future__ import annotations

from edgeemo.compile.codegen.assembly import finish


def test_fences_go() -> None:
    assert finish("\tadd\tx0, x0, #1\n\tcsdb\n\tret\n") == "\tadd\tx0, x0, #1\n\tret\n"


def test_prefetches_are_loads_to_nowhere() -> None:
    text = "\tprfm\tpldl1keep, [x8, #512]\n\tprfm\tpldl1keep, [x8, x9]\n\tprfum\tpldl1keep, [x8, #-64]\n"
    assert finish(text) == "\tldr\txzr, [x8, #512]\n\tldr\txzr, [x8, x9]\n\tldur\txzr, [x8, #-64]\n"


def test_prefetches_stay_where_the_target_says_so() -> None:
    text = "\tprfm\tpldl1keep, [x8, #512]\n"
    assert finish(text, "prfm") == text
