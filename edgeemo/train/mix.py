"""Clips of several folders as training rows: corpora balanced, rows filled with further clips, targets with the crowd's votes."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from edgeemo_runtime.audio import load_audio
from torch import Tensor

from edgeemo.data.clips import MANIFEST, Clip, find_clips, hash_files, newest
from edgeemo.data.corpus import ONLY_AUDIO, SILENCE_RMS, balanced, change_speed
from edgeemo.model.config import LABELS

VOTES = "cremad_voice_votes.csv"  # next to a manifest: how many listeners heard which emotion
VOTES_SHARE = 0.3  # of a target, the rest is what the actor intended
SMOOTHING = 0.1
RMS = 0.05  # every clip's level before a line changes it
SHORTEST_S = 0.3
# What the classifier hears a clip after: nothing, more of the same emotion by the same speaker, or another of theirs first.
ALONE, SAME, OTHER = 0.45, 0.35, 0.2
STEP_S = 0.16
SESSION_S = (4.0, 14.0)  # of a session of one emotion
BEFORE_S = (2.0, 6.0)  # of another emotion before it
LATEST = 1200  # of Whisper's positions, at which half of the rows begin anywhere, the others at 0


@dataclass
class Row:
    """One clip in memory: samples from ``at``, ``target`` (7,) or None where it has no label."""

    corpus: str
    speaker: str
    split: str
    label: int | None
    at: int
    samples: int
    target: list[float] | None


def read_votes(folder: Path) -> dict[str, np.ndarray]:
    """Shares of votes (7,) by path, where the folder has them."""
    if not (folder / VOTES).is_file():
        return {}
    with (folder / VOTES).open(newline="", encoding="utf-8") as lines:
        counts = {row["path"]: np.array([float(row.get(name) or 0) for name in LABELS]) for row in csv.DictReader(lines)}
    return {path: votes / votes.sum() for path, votes in counts.items() if votes.sum()}


def target_of(clip: Clip, votes: np.ndarray | None) -> list[float] | None:
    if clip.label is None or clip.corpus in ONLY_AUDIO:
        return None
    target = np.full(len(LABELS), SMOOTHING / len(LABELS))
    target[clip.label] += 1.0 - SMOOTHING
    return list(target if votes is None else (1 - VOTES_SHARE) * target + VOTES_SHARE * votes)


def _state_of(folder: Path) -> list[str]:
    """Identity of a folder, to tell whether it is the one that it was: its path, and its manifest's hash where it has one."""
    manifest = folder / MANIFEST
    return [str(folder.resolve()), hash_files([manifest]) if manifest.is_file() else ""]


class Pool:
    """All clips of some folders in memory (int16, 58 MB an hour at 8 kHz)."""

    def __init__(self, rows: list[Row], audio: np.ndarray) -> None:
        self.rows, self.samples = rows, audio

    @classmethod
    def load(cls, folders: Sequence[Path], rate: int, cache: Path) -> Pool:
        """Decoded once: ``cache`` (.npy, and a .json next to it) keeps them for the next time with the same folders and
        manifests; files that are cut, or others', are written anew. Of clips of one corpus, speaker and name that of the later
        folder is taken."""
        table, of = cache.with_suffix(".json"), [_state_of(f) for f in folders]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, EOFError):
            kept = json.loads(table.read_text())
            if kept["of"] == of:
                return cls([Row(**r) for r in kept["rows"]], np.load(cache))
        rows, parts, at = [], [], 0
        votes = {folder / path: shares for folder in folders for path, shares in read_votes(folder).items()}
        for clip in newest(c for folder in folders for c in find_clips(folder)):
            audio = load_audio(clip.path, rate)
            if len(audio) < SHORTEST_S * rate:
                continue
            target = target_of(clip, votes.get(clip.path))
            split = clip.split or "unlabelled"
            rows.append(Row(clip.corpus, clip.speaker, split, clip.label, at, len(audio), target))
            parts.append(np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16))
            at += len(audio)
        pool = cls(rows, np.concatenate(parts))
        np.save(cache, pool.samples)
        table.write_text(json.dumps({"of": of, "rows": [asdict(r) for r in rows]}))
        return pool

    def audio(self, row: Row) -> np.ndarray:
        """Its samples, float32 in [-1, 1]."""
        return self.samples[row.at : row.at + row.samples].astype(np.float32) / 32768.0

    def of(self, split: str) -> list[Row]:
        return [r for r in self.rows if r.split == split]


@dataclass
class Rows:
    """A batch to follow teachers on: pcm (B, S * 1280), and Whisper's position of each row's first token (B,)."""

    pcm: Tensor
    began: Tensor


class Mix:
    """Draws rows: a corpus by the root of its size, any of its clips, further clips of the same speaker until the row is full."""

    def __init__(self, pool: Pool, steps: int, step_samples: int, unlabelled: float, seed: int) -> None:
        """``unlabelled``: share of rows that are speech without labels."""
        self.pool, self.steps, self.size, self.unlabelled = pool, steps, step_samples, unlabelled
        self.rng = np.random.default_rng(seed)
        train = pool.of("train")
        self.labelled = [r for r in train if r.target is not None]
        self.others = [r for r in [*train, *pool.of("unlabelled")] if r.target is None]
        self.corpora = sorted({r.corpus for r in self.labelled})
        self.chance = balanced(np.array([self.corpora.index(r.corpus) for r in self.labelled]))
        self.speakers: dict[str, list[Row]] = {}
        self.said: dict[str, dict[int | None, list[Row]]] = {}  # by speaker and label
        for r in train:
            self.speakers.setdefault(r.speaker, []).append(r)
        for r in self.labelled:
            self.said.setdefault(r.speaker, {}).setdefault(r.label, []).append(r)
        drawn = np.zeros(len(LABELS))
        for r, p in zip(self.labelled, self.chance, strict=True):
            drawn[r.label or 0] += p
        weight = np.where(drawn > 0, (drawn.max() / np.maximum(drawn, 1e-9)) ** 0.5, 0.0)  # own calls may lack a class
        self.class_weight = torch.from_numpy((weight / (weight @ drawn)).astype(np.float32))

    def session(self, row: Row) -> tuple[list[Row], int]:
        """Clips of one speaker as a call would bring them, ``row`` the last, and from which of them on they have its emotion."""
        rng, rate = self.rng, self.size / STEP_S
        kind = rng.choice(3, p=(ALONE, SAME, OTHER))
        said = self.said[row.speaker]
        others = sorted(label for label in said if label is not None and label != row.label)
        if kind == 0 or (kind == 2 and not others):
            return [row], 0

        def run(clips: list[Row], seconds: tuple[float, float]) -> list[Row]:
            left, taken = rng.uniform(*seconds) * rate, list[Row]()
            while left > 0:
                taken.append(clips[int(rng.integers(len(clips)))])
                left -= taken[-1].samples
            return taken

        if kind == 1:
            return [*run(said[row.label], SESSION_S), row], 0
        before = run(said[others[int(rng.integers(len(others)))]], BEFORE_S)
        return [*before, *run(said[row.label], (0.0, BEFORE_S[0])), row], len(before)

    def drawn(self) -> Row:
        if self.others and self.rng.random() < self.unlabelled:
            return self.others[int(self.rng.integers(len(self.others)))]
        return self.labelled[int(self.rng.choice(len(self.labelled), p=self.chance))]

    def heard(self, row: Row) -> np.ndarray:
        """The clip at another speed and one level, from anywhere where it is longer than a row."""
        audio = self.pool.audio(row)
        longest = int(self.steps * self.size * 1.1)
        if len(audio) > longest:
            start = int(self.rng.integers(len(audio) - longest))
            audio = audio[start : start + longest]
        audio = change_speed(audio, self.rng.uniform(0.9, 1.1))
        return audio * (RMS / max(float(np.sqrt(np.mean(audio**2))), SILENCE_RMS / 10))
