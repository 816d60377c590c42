"""Paired comparison: by hand on a few clips, and against a slow bootstrap written as the book has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeemo.data.clips import Clip
from edgeemo.evaluate.compare import compare
from edgeemo.evaluate.metrics import confusion_matrix, macro_f1

LABELS = ("angry", "happy", "sad")


def clips(truth: list[int], speakers: list[str]) -> list[Clip]:
    return [Clip(Path(f"{i}.wav"), t, speaker=s) for i, (t, s) in enumerate(zip(truth, speakers, strict=True))]


def said(answers: list[int], sure: float = 0.8) -> np.ndarray:
    rest = (1 - sure) / 2
    return np.array([[sure if i == a else rest for i in range(3)] for a in answers], dtype=np.float32)


def test_equal_models_lose_nothing() -> None:
    same = said([0, 1, 2, 0, 1, 1])
    found = compare(same, same, clips([0, 1, 2, 0, 1, 2], list("aabbcc")), LABELS)
    assert (found.drop, found.interval, found.agreement, found.mean_kl) == (0.0, (0.0, 0.0), 1.0, 0.0)
    assert found.speakers == 3


def test_figures_by_hand() -> None:
    truth = [0, 0, 1, 1]
    found = compare(said([0, 0, 1, 1]), said([0, 1, 1, 1]), clips(truth, list("abcd")), LABELS)
    assert found.reference_f1 == 1.0
    assert found.f1 == pytest.approx((2 / 3 + 4 / 5) / 2)  # angry: 1 of 2 found, happy: 2 found of 3 said
    assert found.drop == pytest.approx(1 - found.f1)
    assert found.agreement == 0.75
    assert found.mean_kl == pytest.approx((0.8 * np.log(8) + 0.1 * np.log(1 / 8)) / 4, rel=1e-5)
    first = found.worst[0]
    assert (first.path, first.label, first.reference, first.answer) == ("1.wav", "angry", "angry", "happy")


def test_interval_is_that_of_a_plain_bootstrap_over_speakers() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(3, size=120).tolist()
    speakers = [f"s{i}" for i in rng.integers(12, size=120)]
    before = [t if rng.random() < 0.8 else int(rng.integers(3)) for t in truth]
    after = [b if rng.random() < 0.85 else int(rng.integers(3)) for b in before]
    found = compare(said(before), said(after), clips(truth, speakers), LABELS)
    names, drops = sorted(set(speakers)), []
    for _ in range(2000):
        drawn = rng.choice(names, len(names))
        index = [i for name in drawn for i, s in enumerate(speakers) if s == name]
        score = [macro_f1(confusion_matrix(np.array(truth)[index], np.array(a)[index], 3)) for a in (before, after)]
        drops.append(score[0] - score[1])
    assert found.interval == pytest.approx(tuple(np.percentile(drops, [2.5, 97.5])), abs=0.012)
    assert found.interval[0] < found.drop < found.interval[1]


def test_clips_of_few_speakers_say_less_than_as_many_of_many() -> None:
    """Four speakers, one of whom loses everything: drawn by speaker the drop may be anything, drawn by clip it may not."""
    truth = [0, 1] * 40
    after = [1 - t if i < 20 else t for i, t in enumerate(truth)]
    few = compare(said(truth), said(after), clips(truth, [f"s{i // 20}" for i in range(80)]), LABELS)
    many = compare(said(truth), said(after), clips(truth, [""] * 80), LABELS)
    width = [c.interval[1] - c.interval[0] for c in (few, many)]
    assert few.speakers == 4 and many.speakers == 80
    assert width[0] > 2 * width[1]
