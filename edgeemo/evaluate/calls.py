"""Long calls made of real clips, and what the decision rules make of them beside the raw answers.

Two kinds: one speaker and one emotion throughout, and one speaker whose emotion changes. A step's truth is the label of the clip
that it ends in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgeemo_runtime.audio import load_audio
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.decision import DecisionRules
from edgeemo_runtime.engine import Engine

from edgeemo.data.clips import Clip
from edgeemo.evaluate.metrics import accuracy, confusion_matrix, macro_f1

CALL_S = 20.0
PART_S = 6.0  # of one emotion, in a call where it changes
STREAMS = 16
SETTLING_S = 1.0  # changes so close to a true one are not jumps


@dataclass
class LongCall:
    """audio float32 (samples,); truth (samples,) int8, the label at each sample; changes: samples where the emotion does."""

    audio: np.ndarray
    truth: np.ndarray
    changes: list[int]


def steady_calls(clips: list[Clip], rate: int) -> list[LongCall]:
    """Clips of one speaker and emotion joined to calls of about CALL_S; what is less than half of that is left out."""
    groups: dict[tuple[str, int], list[Clip]] = {}
    for clip in clips:
        if clip.label is not None:
            groups.setdefault((clip.speaker, clip.label), []).append(clip)
    calls = []
    for (_, label), group in sorted(groups.items()):
        calls += [_call([(p, label)]) for p in _runs(group, rate, CALL_S)]
    return calls


def changing_calls(clips: list[Clip], rate: int, seed: int = 0) -> list[LongCall]:
    """Calls of one speaker, parts of PART_S and an emotion each, in random order, none twice in a row."""
    rng = np.random.default_rng(seed)
    calls = []
    for speaker in sorted({c.speaker for c in clips}):
        parts = []
        for label in sorted({c.label for c in clips if c.speaker == speaker and c.label is not None}):
            group = [c for c in clips if c.speaker == speaker and c.label == label]
            parts += [(p, label) for p in _runs(group, rate, PART_S)]
        order = [parts[i] for i in rng.permutation(len(parts))]
        mixed = [p for i, p in enumerate(order) if i == 0 or p[1] != order[i - 1][1]]
        calls += [_call(mixed[i : i + 4]) for i in range(0, len(mixed), 4) if len(mixed[i : i + 4]) > 1]
    return calls


def _runs(clips: list[Clip], rate: int, seconds: float) -> list[np.ndarray]:
    """Clips one after another, cut where ``seconds`` are reached."""
    runs: list[np.ndarray] = []
    pending: list[np.ndarray] = []
    for clip in clips:
        pending.append(load_audio(clip.path, rate))
        if sum(map(len, pending)) >= seconds * rate:
            runs.append(np.concatenate(pending))
            pending = []
    if sum(map(len, pending)) >= seconds * rate / 2:
        runs.append(np.concatenate(pending))
    return runs


def _call(parts: list[tuple[np.ndarray, int]]) -> LongCall:
    ends = np.cumsum([len(audio) for audio, _ in parts]).tolist()
    truth = np.concatenate([np.full(len(audio), label, dtype=np.int8) for audio, label in parts])
    return LongCall(np.concatenate([audio for audio, _ in parts]), truth, ends[:-1])


def evaluate_calls(
    artifact: Path,
    calls: list[LongCall],
    rules: DecisionRules,
    audio: AudioRules,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Step accuracy, macro-F1 over steps, F1 of the calls' most frequent answer, and jump rates, raw and decided."""
    engine = Engine(artifact, STREAMS, rules, audio)
    step = engine.samples_per_step
    truth, raw, decided = [], [], []
    handoffs = 0
    for first in range(0, len(calls), STREAMS):
        group = calls[first : first + STREAMS]
        streams = [engine.open() for _ in group]
        row = {s.id: i for i, s in enumerate(streams)}
        answers: list[list[tuple[int, int]]] = [[] for _ in group]
        for i in range(max(len(c.audio) for c in group) // step):
            for stream, call in zip(streams, group, strict=True):
                if (i + 1) * step <= len(call.audio):
                    stream.push(call.audio[i * step : (i + 1) * step])
            results = engine.step()
            handoffs += int((results.handoff > 0).sum())
            for stream_id, p, label in zip(results.streams, results.probabilities, results.label, strict=True):
                answers[row[int(stream_id)]].append((int(p.argmax()), int(label)))
        for stream in streams:
            stream.close()
        raw += [np.array([a for a, _ in one]) for one in answers]
        decided += [np.array([b for _, b in one]) for one in answers]
        truth += [c.truth[step - 1 :: step][: len(one)] for c, one in zip(group, answers, strict=True)]
        progress(len(group))
    changes = [[c / step for c in call.changes] for call in calls]
    report: dict[str, Any] = {"calls": len(calls), "steps": sum(map(len, truth)), "handoffs": handoffs}
    report["skipped_steps"] = engine.counters.skipped_steps
    for name, said in (("raw", raw), ("decided", decided)):
        report[name] = _scores(truth, said, changes, len(engine.labels), rules.jump_s, engine.step_s)
    return report


def _scores(
    truth: list[np.ndarray], said: list[np.ndarray], changes: list[list[float]], classes: int, jump_s: float, step_s: float
) -> dict[str, float]:
    steps = confusion_matrix(np.concatenate(truth), np.concatenate(said), classes)
    jumps = sum(_jumps(s, c, jump_s, step_s) for s, c in zip(said, changes, strict=True))
    scores = {"accuracy": accuracy(steps), "macro_f1": macro_f1(steps), "jump_rate": jumps / max(1, sum(map(len, said)))}
    if not any(changes):
        most = np.array([np.bincount(s, minlength=classes).argmax() for s in said])
        scores["call_macro_f1"] = macro_f1(confusion_matrix(np.array([t[0] for t in truth]), most, classes))
    return {k: round(v, 4) for k, v in scores.items()}


def _jumps(said: np.ndarray, changes: list[float], jump_s: float, step_s: float) -> int:
    """Label changes within ``jump_s`` of the one before (or of the call's beginning), but for those within SETTLING_S of a true
    change."""
    at = np.flatnonzero(said[1:] != said[:-1]) + 1
    held = np.diff(at, prepend=0) * step_s
    far = np.array([all(abs(i - c) * step_s > SETTLING_S for c in changes) for i in at], dtype=bool)
    return int(((held < jump_s) & far).sum())
