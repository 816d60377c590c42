"""The rules by their worked examples, and all streams at once against one at a time."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from edgeemo_runtime.decision import LISTENING, PRESETS, REASONS, DecisionRules, Decisions
from edgeemo_runtime.errors import EdgeEmoError
from hypothesis import given, settings
from hypothesis import strategies as st

LABELS = ("angry", "happy", "sad", "neutral")
ANGRY, HAPPY, SAD, NEUTRAL = range(4)
OFF = PRESETS["raw"]
ONE = np.array([0])
UNSURE = np.full((1, 4), 0.25, np.float32)


def sure(label: int, p: float = 0.97) -> np.ndarray:
    row = np.full((1, 4), (1 - p) / 3, dtype=np.float32)
    row[0, label] = p
    return row


def decisions(**rules: object) -> Decisions:
    return Decisions(1, LABELS, replace(OFF, **rules), 0.16)


def test_average_by_the_docstring_s_example() -> None:
    d = decisions(alpha=0.5)
    assert d(ONE, np.array([[0.8, 0.2, 0, 0]], np.float32)).smoothed[0, ANGRY] == pytest.approx(0.8)
    assert d(ONE, np.array([[0.4, 0.6, 0, 0]], np.float32)).smoothed[0, ANGRY] == pytest.approx(0.6)


def test_a_label_most_of_the_window_is_not_counts_half() -> None:
    d = decisions(consistency=True)
    for label in (SAD, SAD, SAD, ANGRY, SAD):
        d(ONE, sure(label))
    decided = d(ONE, np.array([[0.5, 0.05, 0.4, 0.05]], np.float32))
    assert decided.label[0] == SAD
    np.testing.assert_allclose(decided.probabilities[0], np.array([0.25, 0.05, 0.4, 0.05]) / 0.75, rtol=1e-6)
    # 0.4 of the window says angry by now: it counts in full.
    assert d(ONE, np.array([[0.5, 0.05, 0.4, 0.05]], np.float32)).label[0] == SAD
    assert d(ONE, np.array([[0.5, 0.05, 0.4, 0.05]], np.float32)).label[0] == ANGRY


def test_below_the_least_confidence_it_is_neutral() -> None:
    d = decisions(confidence=True)
    low = d(ONE, np.array([[0.5, 0.3, 0.1, 0.1]], np.float32))
    assert (low.label[0], low.low[0]) == (NEUTRAL, True)
    fine = d(ONE, np.array([[0.56, 0.24, 0.1, 0.1]], np.float32))
    assert (fine.label[0], fine.low[0]) == (ANGRY, False)


def test_a_change_soon_after_another_is_a_jump() -> None:
    d = decisions()
    said = [d(ONE, sure(label)) for label in (SAD, SAD, SAD, SAD, ANGRY, HAPPY)]
    assert [bool(x.changed[0]) for x in said] == [False, False, False, False, True, True]
    assert [bool(x.jumped[0]) for x in said] == [False, False, False, False, False, True]


def test_handoff_once_with_its_reason() -> None:
    d = decisions(handoff=True, confidence=True)
    steps = [sure(SAD), UNSURE, UNSURE, sure(SAD), sure(SAD), UNSURE, UNSURE, UNSURE, UNSURE, UNSURE]
    reasons = [REASONS[d(ONE, p).handoff[0]] for p in steps]
    assert reasons == ["", "", "", "", "", "", "", "low confidence", "", ""]  # sad twice, both sure: the run has ended


def test_handoff_for_low_confidence_alone() -> None:
    d = decisions(handoff=True)
    unsure = np.array([[0.3, 0.25, 0.25, 0.2]], np.float32)
    assert [REASONS[d(ONE, unsure).handoff[0]] for _ in range(5)] == ["", "", "low confidence", "", ""]


def test_presets_and_what_is_out_of_range() -> None:
    assert PRESETS["call-centre"].alpha == 0.3
    assert PRESETS["in-car"].alpha == 0.5
    for wrong in (
        {"alpha": 0.0},
        {"alpha": 1.01},
        {"window_steps": 0},
        {"disagreement": 0.0},
        {"min_confidence": 2.0},
        {"settle_decisions": 0},
        {"decision_s": 0.001},
    ):
        with pytest.raises(EdgeEmoError, match=next(iter(wrong))):
            DecisionRules(**wrong)
    with pytest.raises(EdgeEmoError, match="neutral"):
        Decisions(1, ("a", "b"), DecisionRules(), 0.16)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 25), st.integers(0, 2**32 - 1), st.sampled_from(sorted(PRESETS)))
def test_all_streams_at_once_is_each_alone(streams: int, steps: int, seed: int, preset: str) -> None:
    rng = np.random.default_rng(seed)
    spoken = np.zeros(streams, np.float32)
    together = Decisions(streams, LABELS, PRESETS[preset], 0.16)
    alone = [Decisions(1, LABELS, PRESETS[preset], 0.16) for _ in range(streams)]
    for _ in range(steps):
        here = np.flatnonzero(rng.random(streams) < 0.7)
        p = rng.dirichlet(np.full(4, 0.5), len(here)).astype(np.float32)
        spoken[here] += rng.choice([0.0, 0.3, 1.0], len(here))
        both = together(here, p, spoken[here], 2.5)
        for row, stream in enumerate(here):
            one = alone[stream](ONE, p[row : row + 1], spoken[stream : stream + 1], 2.5)
            for f in fields(one):
                np.testing.assert_array_equal(getattr(both, f.name)[row], getattr(one, f.name)[0])
        assert np.allclose(both.probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_cleared_slot_is_new() -> None:
    d = decisions(alpha=0.3, consistency=True, confidence=True, handoff=True)
    fresh = [d(ONE, sure(HAPPY, 0.9)) for _ in range(3)]
    for label in (SAD, ANGRY, SAD, ANGRY, SAD):
        d(ONE, sure(label, 0.4))
    d.clear(0)
    for before in fresh:
        again = d(ONE, sure(HAPPY, 0.9))
        for f in fields(again):
            np.testing.assert_array_equal(getattr(again, f.name), getattr(before, f.name))


def test_another_label_is_said_once_it_has_settled() -> None:
    d = decisions(settle=True, settle_decisions=3)
    said = [int(d(ONE, sure(label)).label[0]) for label in (SAD, SAD, ANGRY, SAD, ANGRY, ANGRY, ANGRY, ANGRY)]
    assert said == [SAD] * 6 + [ANGRY] * 2


def test_a_restless_answer_is_handed_off_though_what_is_said_stands() -> None:
    d = decisions(settle=True, settle_decisions=3, handoff=True)
    said = [d(ONE, sure(label)) for label in (SAD, ANGRY, HAPPY, ANGRY, SAD)]
    assert [int(x.label[0]) for x in said] == [SAD] * 5
    assert [REASONS[x.handoff[0]] for x in said] == ["", "", "", "jumping", ""]


def test_a_call_is_listened_to_before_it_has_a_label() -> None:
    """Two steps of speech are not enough here, three are; what was unsure before that is no low decision."""
    d = decisions(confidence=True, handoff=True, alpha=0.3, decision_s=1.0)
    before = [d(ONE, UNSURE, np.array([n], np.float32), 3.0) for n in (0.0, 0.5, 1.0, 2.0)]
    assert all(x.label[0] == LISTENING and not x.low[0] and not x.decision[0] and not x.handoff[0] for x in before)
    first = d(ONE, sure(SAD), np.array([3.0], np.float32), 3.0)
    assert (first.label[0], first.decision[0], first.changed[0]) == (SAD, True, False)
    np.testing.assert_array_equal(first.smoothed, sure(SAD))  # nothing of before is in the average
    # A model that took over knows less of the call: it has a label all the same.
    assert d(ONE, sure(SAD), np.array([0.5], np.float32), 3.0).label[0] == SAD
    d.clear(0)
    assert d(ONE, sure(SAD), np.array([2.0], np.float32), 3.0).label[0] == LISTENING


def test_a_sure_step_is_said_at_once_and_stands_while_others_are_not() -> None:
    """The docstring's example: 0.5 s are four steps."""
    d = decisions(confidence=True, decision_s=0.5)
    steps = [sure(SAD, 0.5), sure(SAD, 0.6), sure(SAD, 0.7), *[sure(ANGRY, 0.5)] * 5]
    said = [d(ONE, p) for p in steps]
    assert [int(x.label[0]) for x in said] == [LISTENING, SAD, SAD, SAD, SAD, SAD, NEUTRAL, NEUTRAL]
    assert [bool(x.decision[0]) for x in said] == [False, True, False, False, False, False, True, False]
    assert [bool(x.low[0]) for x in said] == [False] * 6 + [True, True]
    assert [bool(x.changed[0]) for x in said] == [False] * 6 + [True, False]


def test_the_same_answer_is_one_decision_for_so_much_speech_and_none_in_a_pause() -> None:
    d = decisions(decision_s=1.0)
    spoken = np.float32([*range(1, 15), *[14] * 20, 15, 16, 17, 18, 19, 20, 21])
    said = [d(ONE, sure(SAD), spoken[i : i + 1]) for i in range(len(spoken))]
    assert [i + 1 for i, x in enumerate(said) if x.decision[0]] == [1, 8, 35]  # at 1, 8 and, after the pause, 15 steps of speech


def test_another_sure_answer_is_a_decision_at_once() -> None:
    d = decisions(confidence=True, decision_s=1.0)
    said = [d(ONE, p) for p in (sure(SAD), sure(ANGRY), sure(ANGRY), UNSURE, sure(SAD))]
    assert [bool(x.decision[0]) for x in said] == [True, True, False, False, True]
    assert [int(x.label[0]) for x in said] == [SAD, ANGRY, ANGRY, ANGRY, SAD]


def test_a_low_decision_lasts_until_a_step_is_sure() -> None:
    d = decisions(confidence=True, handoff=True, decision_s=0.16)
    said = [d(ONE, p) for p in (UNSURE, UNSURE, sure(SAD), UNSURE)]
    assert [bool(x.decision[0]) for x in said] == [False, True, True, True]
    assert [int(x.label[0]) for x in said] == [LISTENING, NEUTRAL, SAD, NEUTRAL]
    assert [bool(x.low[0]) for x in said] == [False, True, False, True]


def test_without_the_confidence_rule_nothing_is_waited_for() -> None:
    d = decisions(decision_s=1.0)
    said = [d(ONE, p) for p in (sure(SAD, 0.4), sure(SAD), sure(HAPPY))]
    assert [int(x.label[0]) for x in said] == [SAD, SAD, HAPPY]


def test_what_follows_a_low_decision_is_no_jumping_and_ends_no_run() -> None:
    d = decisions(confidence=True, handoff=True)
    steps = [sure(SAD), sure(ANGRY), UNSURE, sure(HAPPY), UNSURE]
    assert [REASONS[d(ONE, p).handoff[0]] for p in steps] == [""] * 4 + ["low confidence and jumping"]
    d = decisions(confidence=True, handoff=True)
    steps = [sure(SAD), sure(ANGRY), sure(ANGRY), UNSURE, UNSURE, UNSURE]
    assert [REASONS[d(ONE, p).handoff[0]] for p in steps] == [""] * 5 + ["low confidence"]


def test_three_low_decisions_are_three_times_so_much_speech() -> None:
    d = decisions(confidence=True, handoff=True, decision_s=1.0)
    said = [d(ONE, UNSURE) for _ in range(25)]
    assert [i + 1 for i, x in enumerate(said) if x.decision[0]] == [8, 15, 22]
    assert [i + 1 for i, x in enumerate(said) if x.handoff[0]] == [22]
    assert [int(x.label[0]) for x in said] == [LISTENING] * 7 + [NEUTRAL] * 18


def test_a_pause_makes_no_low_decision() -> None:
    d = decisions(confidence=True, decision_s=1.0)
    d(ONE, sure(SAD), np.float32([4]))
    said = [d(ONE, UNSURE, np.float32([5])) for _ in range(50)]
    assert {int(x.label[0]) for x in said} == {SAD}


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("before", [400.0, 0.0, np.nan, np.inf])
def test_a_model_that_takes_over_may_count_from_anywhere(before: float) -> None:
    d = decisions(confidence=True, decision_s=1.0)
    d(ONE, sure(SAD), np.float32([before]))
    said = [d(ONE, UNSURE, np.float32([n])) for n in range(50, 60)]
    assert [int(x.label[0]) for x in said].index(NEUTRAL) in (6, 7)  # a step more where the first counted for one


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_count_that_is_no_number_is_one_step_without_speech() -> None:
    d = decisions(confidence=True, decision_s=1.0)
    said = [d(ONE, sure(SAD), np.float32([1])), *(d(ONE, UNSURE, np.float32([n])) for n in (2, np.nan, *range(4, 13)))]
    assert NEUTRAL in [int(x.label[0]) for x in said]


def test_without_the_confidence_rule_a_flicker_of_confidence_is_no_decision() -> None:
    d = decisions(handoff=True, decision_s=1.5)
    said = [d(ONE, sure(SAD, p)) for p in (0.6, 0.5) * 10]
    assert not any(x.handoff[0] for x in said) and sum(bool(x.decision[0]) for x in said) == 2


def test_a_label_settles_over_decisions_that_are_apart() -> None:
    d = decisions(confidence=True, settle=True, settle_decisions=2, decision_s=0.5)
    said = [int(d(ONE, sure(label)).label[0]) for label in (SAD, *[ANGRY] * 6)]
    assert said == [SAD] * 5 + [ANGRY] * 2


def test_a_change_soon_after_the_first_label_is_a_jump() -> None:
    d = decisions(confidence=True, decision_s=1.0)
    said = [d(ONE, p) for p in (*[UNSURE] * 6, sure(SAD), sure(ANGRY))]
    assert [bool(x.jumped[0]) for x in said] == [False] * 7 + [True]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.4, 0.5, 0.6, 0.9]), st.sampled_from([0.0, 0.5, 1.0])), max_size=60)
)
def test_what_is_said_is_the_last_sure_answer_or_neutral(steps: list[tuple[int, float, float]]) -> None:
    """Next to the rule in so many words."""
    d = decisions(confidence=True, decision_s=0.5)
    spoken, quiet, wanted = 0.0, None, LISTENING
    for label, p, speech in steps:
        spoken += speech
        quiet = spoken if quiet is None else quiet
        if p >= 0.55:
            wanted, quiet = label, spoken
        elif (spoken - quiet) * 0.16 >= 0.5:
            wanted, quiet = NEUTRAL, spoken
        assert d(ONE, sure(label, p), np.float32([spoken])).label[0] == wanted
