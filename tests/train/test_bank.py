"""Batches cut on a device: what they are made of, at which speed and level, and which piece a step ends in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeemo.train import bank
from edgeemo.train.bank import Bank, Plan, Planner
from edgeemo.train.mix import RMS, Mix, Pool, Row

STEP = 160


@pytest.fixture
def pool() -> Pool:
    rng, rows, at = np.random.default_rng(0), [], 0
    for i, samples in enumerate((900, 1600, 2400, 700, 1234, 5000)):
        rows.append(Row(f"c{i % 2}", f"s{i % 2}", "train", i % 3, at, samples, [0.1] * 7))
        at += samples
    return Pool(rows, rng.integers(-9000, 9000, at).astype(np.int16))


def _plans(planner: Planner) -> list[Plan]:
    return [planner.full(5, 30), planner.alone(6, 10), planner.sessions(5, 25), planner.whole(planner.mix.labelled, 12)[0]]


def test_a_row_is_its_pieces_one_after_another(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "SPEEDS", (1.0, 1.0))
    mix, made = Mix(pool, 30, STEP, 0.0, 1), Bank(pool.samples, pool.rows, STEP, "cpu")
    for plan in _plans(Planner(mix, made.levels, 3)):
        pcm, piece = made(plan)
        assert pcm.shape == (len(plan.start), plan.samples)
        assert piece.shape == (len(plan.start), plan.samples // STEP)
        for row in range(len(pcm)):
            wanted = np.zeros(plan.samples + 80000, dtype=np.float32)
            for k in np.flatnonzero(plan.length[row]):
                place, size = 40000 + plan.start[row, k], plan.length[row, k] - 1  # the last has no neighbour to go to
                clip = pool.samples[plan.at[row, k] : plan.at[row, k] + size] / 32768 * plan.gain[row, k]
                wanted[place : place + size] = clip
                first, last = max(0, -(-plan.start[row, k] // STEP)), (plan.start[row, k] + size) // STEP
                assert (piece[row, first:last] >= k).all()
            np.testing.assert_allclose(pcm[row], wanted[40000 : 40000 + plan.samples], atol=1e-5)


def test_twice_as_fast_is_half_as_long_and_an_octave_higher() -> None:
    n = np.arange(8000)
    samples = np.round(9000 * np.sin(2 * np.pi * 400 * n / 8000)).astype(np.int16)
    row = Row("c", "s", "train", 0, 0, len(samples), [0.1] * 7)
    made = Bank(samples, [row], STEP, "cpu")
    one = np.zeros((1, 1), dtype=np.int64)
    plan = Plan(
        6400, one, one, one + 8000, np.full((1, 1), 2.0, np.float32), np.ones((1, 1), np.float32), one, np.zeros(1, np.int64)
    )
    pcm, piece = made(plan)
    heard = pcm[0, :3999].numpy()
    np.testing.assert_allclose(heard, 9000 / 32768 * np.sin(2 * np.pi * 800 * n[:3999] / 8000), atol=1e-3)
    assert not pcm[0, 4000:].any()
    assert (piece[0] >= 0).sum() == 25


def test_every_clip_has_one_level(pool: Pool) -> None:
    mix, made = Mix(pool, 30, STEP, 0.0, 1), Bank(pool.samples, pool.rows, STEP, "cpu")
    plan, samples = Planner(mix, made.levels, 1).whole(pool.rows, 100)
    for row, count in zip(made(plan)[0], samples, strict=True):
        assert float(row[:count].square().mean().sqrt()) == pytest.approx(RMS, rel=0.2)  # noise in between is lower


def test_positions_end_before_whispers_do(pool: Pool) -> None:
    mix = Mix(pool, 30, STEP, 0.0, 1)
    began = Planner(mix, {r.at: 1.0 for r in pool.rows}, 1).full(200, 80).began
    assert began.max() + 8 * 80 <= bank.POSITIONS
    assert 0.3 < (began == 0).mean() < 0.7
    assert torch.equal(torch.from_numpy(began) % 8, torch.zeros(200, dtype=torch.int64))
