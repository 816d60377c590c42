"""Segments, hand-offs and summaries out of steps."""

from __future__ import annotations

from edgeemo_runtime.decision import REASONS
from edgeemo_runtime.serve.events import Curve, Record
from edgeemo_runtime.serve.pool import Step

LABELS = ("angry", "neutral")


def step(number: int, label: int, probability: float = 0.8, handoff: int = 0, intensity: str = "") -> Step:
    p = [probability, 1 - probability] if label == 0 else [1 - probability, probability]
    return Step(0.16 * number, 0.16 * (number + 1), 0.005, label, handoff, intensity, p, p, "m1")


def test_segments_follow_labels_and_intensity() -> None:
    record = Record(LABELS)
    ended, begun, _ = record.add(step(0, 1))
    assert ended is None and begun is not None
    assert record.add(step(1, 1, 0.6))[:2] == (None, None)
    ended, begun, _ = record.add(step(2, 0))
    assert ended is not None and begun is not None
    assert ended.document(True) | {"model": ""} == {
        "label": "neutral", "intensity": None, "confidence": 0.7, "begin_s": 0.0, "end_s": 0.32, "final": True, "model": ""
    }  # fmt: skip
    assert (begun.label, begun.begin_s) == ("angry", 0.32)
    ended, begun, _ = record.add(step(3, 0, intensity="furious"))
    assert ended is not None and begun is not None and begun.intensity == "furious"
    summary = record.summary()
    assert summary["shares"] == {"neutral": 0.5, "angry": 0.5} and summary["segments"] == 3 and summary["seconds"] == 0.64
    assert summary["label"] == "angry"
    assert summary["confidence"] == round((0.2 + 0.4 + 0.8 + 0.8) / 4, 4)


def test_a_call_is_handed_off_once() -> None:
    """Also after it has moved to an engine that does not know of it."""
    record = Record(LABELS)
    assert record.add(step(0, 1, handoff=1))[2] == REASONS[1]
    assert record.add(step(1, 1, handoff=2))[2] == ""
    assert record.summary()["handoff"] == REASONS[1]


def test_a_call_without_answers_has_a_summary() -> None:
    assert Record(LABELS).summary()["label"] is None


def test_a_curve_keeps_its_last_steps() -> None:
    curve = Curve()
    assert curve.last(5) == []
    for i in range(Curve.KEPT + 3):
        curve.add(0.16 * i, i % 7, 0.5, 0.004)
    assert curve.last(2) == [[round(0.16 * i, 2), i % 7, 0.5, 4.0] for i in (Curve.KEPT + 1, Curve.KEPT + 2)]
    assert len(curve.last(10**9)) == Curve.KEPT
