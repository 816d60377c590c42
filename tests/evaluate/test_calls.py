"""Long calls from clips, on the project's own; and what counts as a jump."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.decision import LISTENING, PRESETS

from edgeemo.cli.main import main
from edgeemo.data.clips import read_manifest
from edgeemo.evaluate.calls import (
    PART_S,
    _first_right,
    _Heard,
    _jumps,
    _scores,
    changing_calls,
    evaluate_calls,
    first_speech,
    steady_calls,
)
from tests.conftest import CALIBRATION

RATE = 8000


@pytest.mark.slow
def test_steady_calls_have_one_label_and_changing_ones_several() -> None:
    clips = read_manifest(CALIBRATION)
    steady, changing = steady_calls(clips, RATE), changing_calls(clips, RATE)
    assert steady
    assert changing
    assert all(len(set(c.truth.tolist())) == 1 and not c.changes for c in steady)
    assert all(len(c.audio) == len(c.truth) for c in steady + changing)
    for call in changing:
        at = np.flatnonzero(np.diff(call.truth)) + 1
        assert at.tolist() == call.changes
        assert (np.diff([0, *call.changes]) >= PART_S * RATE / 2).all()
    again = changing_calls(clips, RATE)
    assert [c.changes for c in again] == [c.changes for c in changing]


def test_jumps_are_changes_soon_after_another_and_far_from_a_true_one() -> None:
    said = np.array([0] * 10 + [1, 0, 2] + [2] * 10 + [3, 2] + [2] * 5)
    assert _jumps(said, [], 0.5, 0.16) == 3  # 0 after 1, 2 after 0, 2 after 3; 1 and 3 came after labels that had stood
    assert _jumps(said, [12.0], 0.5, 0.16) == 1
    assert _jumps(np.array([1, 0, 0, 0, 0]), [], 0.5, 0.16) == 1  # given up as soon as the call had begun


@pytest.mark.slow
def test_raw_rules_decide_nothing_and_the_verb_says_both(host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    calls = steady_calls(read_manifest(CALIBRATION)[::3], RATE)
    report = evaluate_calls(host_artifacts["int8"], calls, PRESETS["raw"], AudioRules())
    assert report["raw"] == report["decided"]
    assert report["steps"] == sum(len(c.audio) // 1280 for c in calls)
    arguments = ["eval-calls", str(host_artifacts["int8"]), "--data", str(CALIBRATION), "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    for kind in ("steady", "changing"):
        assert document[kind]["decided"]["jump_rate"] < document[kind]["raw"]["jump_rate"]
    assert CliRunner().invoke(main, [*arguments, "--rules", "loud"]).exit_code == 2


def test_speech_begins_after_the_pause_before_it() -> None:
    rng = np.random.default_rng(0)
    audio = 0.001 * rng.standard_normal(3 * RATE).astype(np.float32)
    audio[RATE:] += 0.2 * rng.standard_normal(2 * RATE).astype(np.float32)
    audio[4000] = 0.9  # a click is no speech
    assert first_speech(audio, RATE) == pytest.approx(1.0)
    assert first_speech(np.zeros(RATE, np.float32), RATE) == 0.0


def test_time_to_the_first_right_label_counts_calls_that_never_have_it() -> None:
    no = LISTENING
    heard = [_Heard(np.zeros(4), np.array(said), False) for said in ([no, no, 2, 1], [no, 1, 1, 1], [no, 3, 3, 3], [no, 3, 1, 1])]
    truth = [np.full(4, 1)] * 4
    found = _first_right(truth, heard, [0.0, 0.1, 0.0, 0.0], 0.16)
    assert found["ever_right"] == 0.75
    assert found["first_right_s"] == 0.48  # of 0.64, 0.22 and 0.48
    assert found["first_right_of_all_s"] == 0.56
    assert _first_right(truth, heard[2:3] * 4, [0.0] * 4, 0.16)["first_right_s"] is None


def test_calls_that_are_handed_off_are_scored_apart() -> None:
    heard = [
        _Heard(np.array([0, 0, 1]), np.array([LISTENING, 0, 1]), True),
        _Heard(np.array([0, 1, 1]), np.array([LISTENING, 1, 1]), False),
        _Heard(np.array([0, 0, 0]), np.array([LISTENING] * 3), False),
    ]
    found = _scores([np.full(3, 1)] * 3, [h.decided for h in heard], heard, [[], [], []], 2, 0.5, 0.16)
    assert found["accuracy"] == 0.75  # of four steps that have a label
    assert found["calls_wrong_handed_off"] == 1.0  # as many steps say 0 as 1
    assert found["calls_wrong_kept"] == 0.5  # one never had a label
