"""Long calls made of real clips, and what the decision rules make of them next to the raw answers.

Two kinds: one speaker and one emotion throughout, and one speaker whose emotion changes. A step's truth is the label of the clip
that it ends in. Scores are of the steps that have a label: those from the first decision on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgeemo_runtime.audio import load_audio
from edgeemo_runtime.conditioning import AudioRules
from edgeemo_runtime.decision import LISTENING, DecisionRules
from edgeemo_runtime.engine import Engine

from edgeemo.data.clips import Clip
from edgeemo.evaluate.metrics import accuracy, confusion_matrix, macro_f1

CALL_S = 20.0
PART_S = 6.0  # of one emotion, in a call where it changes
STREAMS = 16
SETTLING_S = 1.0  # changes so close to a true one are not jumps
SPEECH_DB = 25.0  # under a call's loud frames that speech begins


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


@dataclass
class _Heard:
    """A call as an engine answered it: the likeliest label of each step (steps,), the label said (steps,), LISTENING while there
    is none; and whether the call was handed off."""

    raw: np.ndarray
    decided: np.ndarray
    handed_off: bool


def evaluate_calls(
    artifact: Path,
    calls: list[LongCall],
    rules: DecisionRules,
    audio: AudioRules,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Step accuracy, macro-F1 over steps, F1 of the calls' most frequent answer, and jump rates, raw and decided; who is handed
    off, and how often an answer is wrong there and elsewhere; how soon a call's label is right."""
    engine = Engine(artifact, STREAMS, rules, audio)
    step = engine.samples_per_step
    heard: list[_Heard] = []
    for first in range(0, len(calls), STREAMS):
        heard += _run(engine, calls[first : first + STREAMS])
        progress(len(calls[first : first + STREAMS]))
    truth = [c.truth[step - 1 :: step][: len(h.raw)] for c, h in zip(calls, heard, strict=True)]
    changes = [[c / step for c in call.changes] for call in calls]
    model = engine.fleet.counters[engine.model.version]
    report: dict[str, Any] = {
        "calls": len(calls),
        "steps": sum(map(len, truth)),
        "listening_steps": model.listening,
        "skipped_steps": engine.counters.skipped_steps,
        "decisions": model.decisions,
        "low_share": round(model.low / max(1, model.decisions), 4),
        "handoffs": sum(h.handed_off for h in heard),
    }
    for name in ("raw", "decided"):
        said = [getattr(h, name) for h in heard]
        report[name] = _scores(truth, said, heard, changes, len(engine.labels), rules.jump_s, engine.step_s)
    began = [first_speech(c.audio, engine.sample_rate) for c in calls]
    return report | _first_right(truth, heard, began, engine.step_s)


def _run(engine: Engine, group: list[LongCall]) -> list[_Heard]:
    step, streams = engine.samples_per_step, [engine.open() for _ in group]
    row = {s.id: i for i, s in enumerate(streams)}
    answers: list[list[tuple[int, int]]] = [[] for _ in group]
    handed_off = np.zeros(len(group), dtype=bool)
    for i in range(max(len(c.audio) for c in group) // step):
        for stream, call in zip(streams, group, strict=True):
            if (i + 1) * step <= len(call.audio):
                stream.push(call.audio[i * step : (i + 1) * step])
        results = engine.step()
        for stream_id, p, label, handoff in zip(
            results.streams, results.probabilities, results.label, results.handoff, strict=True
        ):
            answers[row[int(stream_id)]].append((int(p.argmax()), int(label)))
            handed_off[row[int(stream_id)]] |= handoff > 0
    for stream in streams:
        stream.close()
    pairs = [np.array(one, dtype=np.int64).reshape(-1, 2) for one in answers]
    return [_Heard(one[:, 0], one[:, 1], bool(h)) for one, h in zip(pairs, handed_off, strict=True)]


def first_speech(audio: np.ndarray, rate: int) -> float:
    """Seconds at which the first three frames of 20 ms in a row begin that are within SPEECH_DB of the call's loud ones."""
    size = rate // 50
    energy = (audio[: len(audio) // size * size].reshape(-1, size) ** 2).mean(axis=1)
    loud = energy >= np.percentile(energy, 95) * 10 ** (-SPEECH_DB / 10)
    found = np.flatnonzero(loud[:-2] & loud[1:-1] & loud[2:])
    return float(found[0]) * size / rate if len(found) else 0.0


def _first_right(truth: list[np.ndarray], heard: list[_Heard], began: list[float], step_s: float) -> dict[str, Any]:
    """Share of the calls that ever has the right label, and the median time from the first speech until the end of the first
    step that says it: of those, and of all (None where half of them never have it)."""
    times = []
    for t, h, start in zip(truth, heard, began, strict=True):
        right = np.flatnonzero(h.decided == t)
        times.append((right[0] + 1) * step_s - start if len(right) else np.inf)
    ever, middle = np.isfinite(times), float(np.median(times))
    return {
        "ever_right": round(float(ever.mean()), 4),
        "first_right_s": round(float(np.median(np.array(times)[ever])), 2) if ever.any() else None,
        "first_right_of_all_s": round(middle, 2) if np.isfinite(middle) else None,
    }


def _scores(
    truth: list[np.ndarray],
    said: list[np.ndarray],
    heard: list[_Heard],
    changes: list[list[float]],
    classes: int,
    jump_s: float,
    step_s: float,
) -> dict[str, float]:
    labelled = [h.decided != LISTENING for h in heard]
    kept = [(t[k], s[k]) for t, s, k in zip(truth, said, labelled, strict=True)]
    steps = confusion_matrix(np.concatenate([t for t, _ in kept]), np.concatenate([s for _, s in kept]), classes)
    begun = [int(k.argmax()) if k.any() else len(k) for k in labelled]
    jumps = sum(
        _jumps(s, [c - b for c in change], jump_s, step_s) for (_, s), change, b in zip(kept, changes, begun, strict=True)
    )
    scores = {"accuracy": accuracy(steps), "macro_f1": macro_f1(steps), "jump_rate": jumps / max(1, int(steps.sum()))}
    if not any(changes):
        most = np.array([np.bincount(s, minlength=classes).argmax() if len(s) else LISTENING for _, s in kept])
        label, handed = np.array([t[0] for t in truth]), np.array([h.handed_off for h in heard])
        known = most != LISTENING
        scores["call_macro_f1"] = macro_f1(confusion_matrix(label[known], most[known], classes))
        for name, mine in (("handed_off", handed), ("kept", ~handed)):
            if mine.any():
                scores[f"calls_wrong_{name}"] = float((most != label)[mine].mean())
    return {k: round(v, 4) for k, v in scores.items()}


def _jumps(said: np.ndarray, changes: list[float], jump_s: float, step_s: float) -> int:
    """Label changes within ``jump_s`` of the one before (or of the call's beginning), but for those within SETTLING_S of a true
    change."""
    at = np.flatnonzero(said[1:] != said[:-1]) + 1
    held = np.diff(at, prepend=0) * step_s
    far = np.array([all(abs(i - c) * step_s > SETTLING_S for c in changes) for i in at], dtype=bool)
    return int(((held < jump_s) & far).sum())
