"""Answers of the C library are those of the Python runtime to the bit: clips, histories of packets, gaps, overload, swaps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.decision import PRESETS, DecisionRules

from tests.c.histories import Pair, Settings, run
from tests.c.library import Library

pytestmark = pytest.mark.slow
SETTINGS = {
    "defaults": Settings(),
    "one stream": Settings(max_streams=1, backlog_hops=1),
    "newest audio": Settings(overload="drop-oldest"),
    "newest audio, one hop": Settings(overload="drop-oldest", backlog_hops=1),
    "gaps reset": Settings(audio=AudioRules(gaps="reset"), rules=PRESETS["in-car"]),
    "offsets": Settings(audio=AudioRules(largest_offset=1e-4), rules=PRESETS["raw"]),
    "phases": Settings(max_streams=16, spread_phases=True, rules=DecisionRules(alpha=0.9, window_steps=3, disagreement=0.3)),
    "no intensity": Settings(
        rules=DecisionRules(intensity=False, least_confidence=0.2, settle_decisions=1, handoff_decisions=1, decision_s=0.0)
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_histories(library: Library, host_artifacts: dict[str, Path], sounds: list[np.ndarray], name: str) -> None:
    pair = Pair(library, [host_artifacts["int8"]], SETTINGS[name], sounds)
    for seed in range(3):
        run(pair, seed, 250, swaps=False)
    assert pair.answers > 50
    pair.close()


@pytest.mark.parametrize("name", ["defaults", "newest audio", "phases"])
def test_histories_with_swaps(library: Library, host_artifacts: dict[str, Path], sounds: list[np.ndarray], name: str) -> None:
    # While two models serve, Python is numpy, which sums a step's offset in another order: here no offset is taken out.
    settings = replace(SETTINGS[name], audio=AudioRules(largest_offset=1))
    pair = Pair(library, [host_artifacts["int8"], host_artifacts["float"]], settings, sounds)
    for seed in range(3):
        run(pair, 100 + seed, 250, swaps=True)
    assert pair.answers > 50 and pair.swaps > 5
    pair.close()
