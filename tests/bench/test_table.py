"""The models' table: what is kept between runs is used for the same clips only; the plots are drawn."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgeemo.bench import table
from edgeemo.bench.plot import Curve, pareto_front, plot_answers, plot_front, plot_reliability
from edgeemo.data.clips import find_clips
from edgeemo.model.config import LABELS
from tests.conftest import CALIBRATION


class Counting:
    """A model that says how often it was asked, as its first class's probability."""

    sample_rate, samples_per_step, labels = 8000, 1280, LABELS
    asked = 0

    def heard(self, audio: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        Counting.asked += len(audio)
        answers = [np.full((2, len(LABELS)), Counting.asked, dtype=np.float32) for _ in audio]
        return answers, [np.ones(2, dtype=bool) for _ in audio]


def test_answers_are_kept_for_the_same_clips_and_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "open_model", lambda path: Counting())
    model = tmp_path / "model"
    model.write_bytes(b"")
    os.utime(model, (0, 0))
    clips = find_clips(CALIBRATION)[:3]
    first = table.answers(model, clips, "a", tmp_path)
    again = table.answers(model, clips, "a", tmp_path)
    assert Counting.asked == 3
    np.testing.assert_array_equal(np.stack(first), np.stack(again))
    table.answers(model, find_clips(CALIBRATION)[1:4], "a", tmp_path)
    assert Counting.asked == 6  # as many clips, but others
    os.utime(model)
    os.utime(tmp_path / "a.answers.npz", (0, 0))
    table.answers(model, find_clips(CALIBRATION)[1:4], "a", tmp_path)
    assert Counting.asked == 9  # the model is younger than its answers


def test_plots_confusion_and_reliability(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(len(LABELS)), 60)
    plot_answers(p, rng.integers(len(LABELS), size=60), LABELS, "a model", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_the_front_is_what_no_other_beats(tmp_path: Path) -> None:
    points = [(35.0, 0.48), (1.2, 0.72), (193.0, 0.58), (93.0, 0.63), (93.0, 0.6)]
    assert pareto_front(points) == [1, 3, 2]
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)]) == [0]
    calls, f1 = zip(*points, strict=True)
    plot_front("abcde", calls, f1, "models", tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"


def test_plots_how_often_answers_are_right(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(len(LABELS)), 200)
    curves = [Curve(name, p, rng.integers(len(LABELS), size=200)) for name in ("before", "after")]
    plot_reliability({"steps": curves, "clips": curves[:1]}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
