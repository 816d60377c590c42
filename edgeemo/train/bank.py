"""All clips of a pool on one device, and batches cut from them there: an accelerator must not wait for one core's numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeemo.data.corpus import SILENCE_RMS
from edgeemo.train.mix import LATEST, RMS, Mix, Row

SPEEDS = (0.88, 1.12)
POSITIONS = 1500  # that Whisper has
Piece = tuple[int, int, float, float]  # place in the pool, samples there, speed, gain
EDGE = 2  # samples around a clip that the interpolation reads


@dataclass
class Plan:
    """Pieces that rows of ``samples`` samples are made of: its begin in the row, its place in the pool and its samples
    there, speed, gain; each (B, P). ``clip`` (B, P) is its place among the labelled clips, or -1; ``began`` (B,) Whisper's
    position of the first token."""

    samples: int
    start: np.ndarray
    at: np.ndarray
    length: np.ndarray
    speed: np.ndarray
    gain: np.ndarray
    clip: np.ndarray
    began: np.ndarray


class Planner:
    """Draws plans as a mix draws its clips."""

    def __init__(self, mix: Mix, levels: dict[int, float], seed: int) -> None:
        """``levels``: RMS of each clip by its place in the pool."""
        self.mix, self.levels = mix, levels
        self.number = {r.at: i for i, r in enumerate(mix.labelled)}
        self.follow(np.random.default_rng(seed))

    def follow(self, rng: np.random.Generator) -> None:
        """Draws from ``rng`` from now on."""
        self.rng = self.mix.rng = rng

    def _piece(self, row: Row, longest: int) -> Piece:
        """Place, samples, speed and gain of a clip, from anywhere where it is longer than ``longest`` samples."""
        speed = float(self.rng.uniform(*SPEEDS))
        at, samples, most = row.at, row.samples, int(longest * speed) + 1
        if samples > most:
            at += int(self.rng.integers(samples - most))
            samples = most
        return at, samples, speed, RMS / max(self.levels[row.at], SILENCE_RMS / 10)

    def _plan(self, rows: list[list[tuple[Row, Piece]]], samples: int) -> Plan:
        shape = (len(rows), max(map(len, rows)))
        start, at, length = (np.full(shape, v, dtype=np.int64) for v in (samples, EDGE, 0))
        speed, gain = np.ones(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        clip = np.full(shape, -1, dtype=np.int64)
        latest = min(LATEST, POSITIONS - samples // self.mix.size * 8)  # a row ends before Whisper's positions do
        began = self.rng.integers(0, latest // 8, len(rows)) * 8 * (self.rng.random(len(rows)) < 0.5)
        for i, pieces in enumerate(rows):
            spoken = sum(int(p[1] / p[2]) for _, p in pieces)
            begin = min(0, samples - spoken)  # of what is longer than a row the end is heard
            for k, (row, (place, size, fast, loud)) in enumerate(pieces):
                start[i, k], at[i, k], length[i, k], speed[i, k], gain[i, k] = begin, place, size, fast, loud
                clip[i, k] = self.number.get(row.at, -1)
                begin += int(size / fast)
        return Plan(samples, start, at, length, speed, gain, clip, began)

    def full(self, count: int, steps: int) -> Plan:
        """Rows of any clips of one speaker until they are full."""
        mix, samples, rows = self.mix, steps * self.mix.size, list[list[tuple[Row, Piece]]]()
        for _ in range(count):
            row, pieces, left = mix.drawn(), [], samples
            while left > 0:
                pieces.append((row, self._piece(row, samples)))
                left -= int(pieces[-1][1][1] / pieces[-1][1][2])
                same = mix.speakers.get(row.speaker) or mix.others
                row = same[int(self.rng.integers(len(same)))]
            rows.append(pieces)
        return self._plan(rows, samples)

    def alone(self, count: int, steps: int) -> Plan:
        """Rows of one labelled clip each."""
        mix, samples = self.mix, steps * self.mix.size
        drawn = self.rng.choice(len(mix.labelled), count, p=mix.chance)
        return self._plan([[(mix.labelled[i], self._piece(mix.labelled[i], samples))] for i in drawn], samples)

    def sessions(self, count: int, steps: int) -> Plan:
        """Rows of labelled clips of one speaker, as a call would bring them (Mix.session), without clips that are alone."""
        mix, samples, rows = self.mix, steps * self.mix.size, list[list[tuple[Row, Piece]]]()
        while len(rows) < count:
            clips, _ = mix.session(mix.labelled[int(self.rng.choice(len(mix.labelled), p=mix.chance))])
            if len(clips) > 1:
                rows.append([(r, self._piece(r, samples)) for r in clips])
        return self._plan(rows, samples)

    def whole(self, rows: list[Row], longest: int) -> tuple[Plan, np.ndarray]:
        """Whole clips, or ``longest`` steps of them, one to a row, and the samples of each (B,)."""
        size = self.mix.size
        pieces = [(row, self._piece(row, longest * size)) for row in rows]
        samples = np.array([int(count / speed) for _, (_, count, speed, _) in pieces])
        return self._plan([[p] for p in pieces], min(longest, -(-int(samples.max()) // size)) * size), samples


class Bank:
    """A pool's samples on a device."""

    def __init__(self, samples: np.ndarray, rows: list[Row], size: int, device: str) -> None:
        """``size``: samples of a step."""
        self.size, self.device = size, device
        self.samples = torch.from_numpy(np.pad(samples, EDGE)).to(device)
        audio = [samples[r.at : r.at + r.samples].astype(np.float32) / 32768.0 for r in rows]
        self.levels = {r.at: float(np.sqrt(np.mean(x**2))) for r, x in zip(rows, audio, strict=True)}

    def __call__(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """A plan's pcm (B, samples) float32, between samples by Catmull-Rom's cubic; and which piece each step has last (B,
        S), -1 for none."""
        start, at, length, speed, gain = (
            torch.from_numpy(x).to(self.device, non_blocking=True)
            for x in (plan.start, plan.at, plan.length, plan.speed, plan.gain)
        )
        t = torch.arange(plan.samples, device=self.device).expand(len(start), -1).contiguous()
        piece = torch.searchsorted(start, t, right=True) - 1
        inside = piece >= 0
        piece = piece.clamp(min=0)
        place = (t - start.gather(1, piece)).double() * speed.gather(1, piece).double()
        inside &= place < length.gather(1, piece) - 1
        whole = place.floor()
        f, first = (place - whole).float(), at.gather(1, piece) + whole.long() * inside + EDGE
        a, b, c, d = (self.samples[first + k].float() for k in (-1, 0, 1, 2))
        x = b + 0.5 * f * (c - a + f * (2.0 * a - 5.0 * b + 4.0 * c - d + f * (3.0 * (b - c) + d - a)))
        pcm = torch.where(inside, x * gain.gather(1, piece) / 32768.0, 0.0)
        return pcm, torch.where(inside, piece, -1).reshape(len(pcm), -1, self.size).amax(dim=2)
