"""The C library's share of the Python runtime as a C header: columns, limits, defaults and G.711, written once, in Python.

    python -m edgeemo.compile.codegen.c_tables > runtime/c/src/tables.h

A test compares the committed header with this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from edgeemo_runtime import (
    abi,
    conditioning,
    decision,
    engine,
    fleet,
    function,
    g711,
    manifest,
    members,
    memory,
    model,
    rates,
    schedule,
    source_clock,
)
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.counters import BUDGET_S
from edgeemo_runtime.stream import MAX_TIME_S

NUMBERS: dict[str, int | float] = {
    "SCHEMA": manifest.SCHEMA,
    "MAX_STATE_WORDS": manifest.MAX_STATE_WORDS,
    "MAX_ARENA_BYTES": manifest.MAX_ARENA_BYTES,
    "MAX_RATE": rates.MAX_RATE,
    "MAX_RING_S": manifest.MAX_RING_S,
    "MANIFEST_LIMIT": members.LIMITS[manifest.MANIFEST],
    "LIBRARY_LIMIT": members.LIMITS[manifest.LIBRARY],
    "WEIGHTS_LIMIT": members.LIMITS[manifest.WEIGHTS],
    "SIGNATURE_LIMIT": members.SIGNATURE_LIMIT,
    "DIRECTORY_LIMIT": members.BLOCK,
    "ALIGNMENT": memory.ALIGNMENT,
    "MARGIN": function.MARGIN,
    "MAX_BATCH": model.MAX_BATCH,
    "SUM_TOLERANCE": model.SUM_TOLERANCE,
    "MAX_STREAMS": engine.MAX_STREAMS,
    "MAX_BACKLOG_HOPS": engine.MAX_BACKLOG_HOPS,
    "BACKLOG_HOPS": engine.BACKLOG_HOPS,
    "BUDGET_S": BUDGET_S,
    "MAX_TIME_S": MAX_TIME_S,
    "CARRIED_PER_STEP": fleet.CARRIED_PER_STEP,
    "PHASES": schedule.PHASES,
    "CREDIT_STEPS": source_clock.CREDIT_STEPS,
    "CREDIT_SHARE": source_clock.CREDIT_SHARE,
    "MAX_COUNT": source_clock.MAX_COUNT,
    "WAITING": abi.WAITING,
    "BAD": abi.BAD,
    "OFFSET_MEMORY": conditioning.OFFSET_MEMORY,
}


def _number(value: int | float) -> str:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "INFINITY"
    return f"INT64_C({value})" if value >= 1 << 31 else str(value)


def _texts(name: str, values: Iterable[str]) -> str:
    listed = ", ".join(f'"{v}"' for v in values)
    return f"static const char *const {name}[] = {{{listed}, NULL}};\n"


def _columns() -> str:
    text = "/* Order of columns: edgeemo_runtime/abi.py. */\n"
    for kind, names in abi.COLUMNS.items():
        listed = ", ".join(f"EE_{kind.upper()}_{n.upper()}" for n in (*names, "count"))
        text += f"enum {{{listed}}};\n"
    for kind, names in abi.COLUMNS.items():
        text += _texts(f"ee_columns_{kind}", names)
    for kind, names in abi.FIRST_COLUMNS.items():
        text += _texts(f"ee_first_columns_{kind}", names)
    return text


def _values(rules: Any, names: Iterable[str]) -> str:
    return ", ".join(_number(float(v) if isinstance(v := getattr(rules, n), float) else int(v)) for n in names)


# Members of edgeemo_rules in their order: integers, then doubles.
RULES = ("consistency", "confidence", "settle", "handoff", "intensity", "window_steps", "settle_decisions", "handoff_decisions")
WEIGHTS = ("alpha", "disagreement", "min_confidence", "jump_s", "decision_s")

OF_ENGINE = ("neutral", "step_s", "step")  # columns that are no rules


def _defaults() -> str:
    """Values of the compiled rules by column: a rule that edgeemo_rules has no member for is what Python's default is."""
    rules = decision.DecisionRules()
    values = (0.0 if name in OF_ENGINE else float(getattr(rules, name)) for name in abi.RULES)
    return f"static const double ee_rules_defaults[] = {{{', '.join(map(_number, values))}}};\n\n"


def _rules() -> str:
    unknown = {f.name for f in fields(decision.DecisionRules)} - {*RULES, *WEIGHTS}
    default = decision.DecisionRules()
    assert all(getattr(p, n) == getattr(default, n) for p in decision.PRESETS.values() for n in unknown), "C has the default"
    text = _defaults() + "/* Of edgeemo_rules, from its second member on: decision.PRESETS. */\n"
    text += "static const struct {\n  const char *name;\n  edgeemo_rules rules;\n} ee_presets[] = {\n"
    for name, rules in decision.PRESETS.items():
        text += f'    {{"{name}", {{sizeof(edgeemo_rules), {_values(rules, RULES)}, 0, {_values(rules, WEIGHTS)}}}}},\n'
    audio = AudioRules()
    assert {f.name for f in fields(audio)} == {
        "gaps", "max_fill_s", "max_offset", "skip_silence", "silence_dbfs", "hangover_steps"
    }, "a rule that C does not know"  # fmt: skip
    members = (f"{int(audio.gaps == 'reset')}", _values(audio, ("skip_silence", "hangover_steps")),
               _values(audio, ("max_fill_s", "max_offset", "silence_dbfs")))  # fmt: skip
    text += "};\n\nstatic const edgeemo_audio_rules ee_audio_rules = {sizeof(edgeemo_audio_rules), " + ", ".join(members) + "};\n"
    return text


def _law(name: str, values: Iterable[int]) -> str:
    numbers = [str(int(v)) for v in values]
    rows = [", ".join(numbers[i : i + 16]) for i in range(0, 256, 16)]
    return f"static const int16_t {name}[256] = {{\n    " + ",\n    ".join(rows) + "};\n"


def tables() -> str:
    """The header's text."""
    text = "/* Made by `python -m edgeemo.compile.codegen.c_tables` from edgeemo_runtime; do not edit. */\n"
    text += "#ifndef EDGEEMO_TABLES_H\n#define EDGEEMO_TABLES_H\n\n"
    text += "".join(f"#define EE_{name} {_number(value)}\n" for name, value in NUMBERS.items()) + "\n"
    text += _columns() + "\n"
    text += _texts("ee_dtypes", manifest.DTYPES) + _texts("ee_hears", manifest.HEARS) + _texts("ee_reasons", decision.REASONS)
    text += f'#define EE_NEUTRAL "{decision.NEUTRAL}"\n\n' + _rules() + "\n"
    text += "/* ITU-T G.711. */\n" + _law("ee_ulaw", g711.MULAW) + _law("ee_alaw", g711.ALAW)
    return text + "\n#endif\n"


if __name__ == "__main__":
    print(tables(), end="")
