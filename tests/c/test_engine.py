"""Answers of the C library are those of the Python runtime to the bit: clips, histories of packets, gaps, overload, swaps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime.conditioning import AudioRules

from tests.c.histories import SETTINGS, Pair, run
from tests.c.library import Engine, Library, LibraryError

pytestmark = pytest.mark.slow


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
    settings = replace(SETTINGS[name], audio=AudioRules(max_offset=1))
    pair = Pair(library, [host_artifacts["int8"], host_artifacts["float"]], settings, sounds)
    for seed in range(3):
        run(pair, 100 + seed, 250, swaps=True)
    assert pair.answers > 50 and pair.swaps > 5 and pair.canaries > 5
    pair.close()


def test_a_canary_gets_a_share_of_the_users_and_is_counted_alone(
    library: Library, host_artifacts: dict[str, Path], sounds: list[np.ndarray]
) -> None:
    models = [library.load(host_artifacts[name]) for name in ("int8", "float")]
    engine = Engine(library, models[0])
    for share in (0.0, 1.0, float("nan"), -1.0):
        with pytest.raises(LibraryError, match="INVALID: a canary's share"):
            engine.start_canary(models[1], share)
    with pytest.raises(LibraryError, match="INVALID: no canary is running"):
        engine.end_canary(promote=True)
    engine.start_canary(models[1], 0.05)
    with pytest.raises(LibraryError, match="INVALID: a canary is running"):
        engine.start_canary(models[1], 0.05)
    streams = [engine.open(user) for user in ("caller-1704", "caller-1705", "caller-1788")]
    for stream in streams:
        engine.push(stream, sounds[0][:1280])
    version = [library.info(model).version.decode() for model in models]
    assert [r.model.decode() for r in engine.step()] == [version[1], version[0], version[0]]
    live, canary = engine.model_stats(0), engine.model_stats(1)
    assert (live.role, live.open_streams, live.steps) == (1, 2, 2)
    assert (canary.role, canary.open_streams, canary.steps, canary.model.decode()) == (2, 1, 1, version[1])
    with pytest.raises(LibraryError, match="INVALID: no model of number 2"):
        engine.model_stats(2)
    engine.end_canary(promote=True)
    assert (engine.stats().moving, engine.model_stats(0).role, engine.model_stats(1).role) == (2, 0, 1)
    engine.step()
    assert (engine.stats().models, engine.stats().steps, engine.model_stats(0).steps) == (1, 3, 1)
    engine.destroy()
    for model in models:
        library.release(model)
