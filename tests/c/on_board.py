"""Python's engine and the C library side by side on the emulated board: python on_board.py LIBRARY SOUNDS WHAT ARTIFACT...

``histories NAME SEEDS EVENTS``: random ones, as on the host, with swaps where there are two artifacts. ``golden``: each sound
through both, a step at a time; prints the probabilities as JSON. Any difference in a bit is an AssertionError.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # this file is run alone, on a board that has nothing but the runtime

from edgeemo_runtime import PRESETS
from edgeemo_runtime import Engine as PythonEngine
from edgeemo_runtime.conditioning import AudioRules

from tests.c.histories import SETTINGS, Pair, run
from tests.c.library import Engine, Library


def histories(library: Library, sounds: list[np.ndarray], name: str, seeds: int, events: int, artifacts: list[Path]) -> None:
    settings, swaps = SETTINGS[name], len(artifacts) > 1
    if swaps:  # as in test_engine.py: numpy sums an offset in another order
        settings = replace(settings, audio=AudioRules(max_offset=1))
    pair = Pair(library, artifacts, settings, sounds)
    for seed in range(seeds):
        run(pair, 200 + seed, events, swaps)
    print(json.dumps({"answers": pair.answers, "swaps": pair.swaps, "canaries": pair.canaries}))
    pair.close()


def golden(library: Library, sounds: list[np.ndarray], artifact: Path) -> None:
    model = library.load(artifact)
    ours = Engine(library, model, max_streams=len(sounds), rules=PRESETS["raw"])
    theirs = PythonEngine(artifact, len(sounds), PRESETS["raw"])
    calls = [(ours.open(), theirs.open(), sound.reshape(-1, theirs.samples_per_step)) for sound in sounds]
    said: list[list[list[float]]] = [[] for _ in sounds]
    for step in range(len(calls[0][2])):
        for c, python, hops in calls:
            ours.push(c, hops[step])
            python.push(hops[step])
        for i, (a, b) in enumerate(zip(ours.step(), theirs.step(), strict=True)):
            for which in ("probabilities", "smoothed"):
                np.testing.assert_array_equal(np.ctypeslib.as_array(getattr(a, which), (a.label_count,)), getattr(b, which))
            assert (theirs.labels[a.label] if a.label >= 0 else None) == b.label
            said[i].append([float(p) for p in b.probabilities])
    ours.destroy()
    library.release(model)
    print(json.dumps(said))


def main(library: str, sounds: str, what: str, *rest: str) -> None:
    with np.load(sounds) as file:
        loaded = [file[name] for name in file.files]
    if what == "golden":
        golden(Library(Path(library)), loaded, Path(rest[0]))
    else:
        name, seeds, events, *artifacts = rest
        histories(Library(Path(library)), loaded, name, int(seeds), int(events), [Path(a) for a in artifacts])


if __name__ == "__main__":
    main(*sys.argv[1:])
