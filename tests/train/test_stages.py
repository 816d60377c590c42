"""Stages of training: which steps count, the teachers that are followed, labels of speakers who were not heard."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.whisper import WhisperEncoder
from edgeemo.train import soft_labels as soft_module
from edgeemo.train.bank import Bank, Planner
from edgeemo.train.mix import Mix, Pool, Row, Rows
from edgeemo.train.soft_labels import SoftRecipe, soft_labels
from edgeemo.train.stages import Learner, Lesson, Stage, Targets
from edgeemo.train.start import begin_with_whisper
from edgeemo.train.whisper_states import Teacher

STEP = 1280
SMALL = Stage("joint", 4, rows=4, alone=3, sessions=2, steps=8, session_steps=16, line=0.0)


def _pool(clips: int, speakers: int) -> Pool:
    rng, rows, samples = np.random.default_rng(0), list[Row](), 9000
    for i in range(clips):
        label = int(rng.integers(3))
        target = list(np.full(7, 0.1 / 7) + 0.9 * np.eye(7)[label])
        rows.append(Row(f"c{i % 2}", f"s{i % speakers}", "train", label, i * samples, samples, target))
    return Pool(rows, rng.integers(-9000, 9000, clips * samples).astype(np.int16))


def _learner() -> Learner:
    torch.manual_seed(0)
    encoders = WhisperEncoder(384, 6, 4).eval(), WhisperEncoder(64, 2, 6).eval()
    pool = _pool(24, 4)
    mix, bank = Mix(pool, 8, STEP, 0.0, 1), Bank(pool.samples, pool.rows, STEP, "cpu")
    planner, teachers = Planner(mix, bank.levels, 1), [Teacher(e, f) for e, f in zip(encoders, ((2, 4), (3, 5)), strict=True)]
    plan = planner.full(3, 8)
    rows = Rows(bank(plan)[0], torch.from_numpy(plan.began))
    for teacher in teachers:
        teacher.standardise(rows)
    model = CosyVoiceTiny()
    begin_with_whisper(model, encoders[0], teachers[0].mel(rows.pcm))
    return Learner(Lesson(model, teachers, len(mix.corpora)), teachers, planner, bank, Targets(mix, "cpu"))


def test_a_step_counts_once_enough_was_heard_of_its_emotion() -> None:
    pool = _pool(8, 1)
    for i, row in enumerate(pool.rows):
        row.label = int(i > 0)
    mix = Mix(pool, 8, STEP, 0.0, 1)
    plan = Planner(mix, {r.at: 1.0 for r in pool.rows}, 1).alone(1, 30)
    plan.clip = np.array([[0, 1, 2, -1]])  # one emotion, two clips of another, one without a label
    piece = np.repeat([0, 1, 2, 3, -1], (5, 6, 6, 6, 7))[None]
    clip, weight = Targets(mix, "cpu").counted(plan, piece)
    assert clip[0].tolist() == [0] * 5 + [1] * 6 + [2] * 6 + [-1] * 13
    assert np.flatnonzero(weight[0]).tolist() == [2, 3, 4, 13, 14, 15, 16]
    assert weight.sum() == pytest.approx(1.0)


@pytest.mark.slow
def test_a_teachers_states_are_standardised() -> None:
    learner = _learner()
    plan = learner.planner.full(8, 8)
    for teacher in learner.teachers:
        states = teacher.states(Rows(learner.bank(plan)[0], torch.from_numpy(plan.began)))
        assert states.shape == (8, 32, 2 * teacher.width)
        assert 0.5 < float(states.flatten(0, 1).std(dim=0).mean()) < 2.0


@pytest.mark.slow
def test_distances_and_loss_fall_on_a_batch_it_sees_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = _learner()
    learner.new_head(SMALL)
    stage = replace(SMALL, updates=12, encoder_lr=3e-4, new_lr=6e-4, head_lr=2e-3, every_s=0.0, average=0.0)
    for name in ("alone", "sessions"):
        plan = getattr(learner.planner, name)(3, 8)
        monkeypatch.setattr(learner.planner, name, lambda *_, plan=plan: plan)
    before = copy.deepcopy(learner.lesson.model.state_dict())
    learner.run(stage, lambda model: "scored")
    lines = [x for x in capsys.readouterr().err.splitlines() if "distance" in x]
    first, last = (np.array([float(v.strip(",")) for v in x.split("distance ")[1].split()[:4]]) for x in (lines[0], lines[-1]))
    assert (last < first).all()
    assert float(lines[-1].split("loss ")[1].split()[0]) < float(lines[0].split("loss ")[1].split()[0])
    assert any(not torch.equal(v, before[k]) for k, v in learner.averaged.state_dict().items() if k.startswith("layers"))


@pytest.mark.slow
def test_without_a_rate_the_encoder_stays() -> None:
    learner = _learner()
    learner.new_head(SMALL)
    before = copy.deepcopy(learner.lesson.model.state_dict())
    learner.run(replace(SMALL, head_lr=1e-3), lambda model: "")
    changed = {k.split(".")[0] for k, v in learner.lesson.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"head"}


@pytest.mark.slow
@pytest.mark.parametrize("speakers", [10, 1])
def test_soft_labels_are_of_speakers_who_were_not_heard(monkeypatch: pytest.MonkeyPatch, speakers: int) -> None:
    """Every clip is a one-hot of itself: whoever was fitted to it knows its label, whoever was not can only guess."""
    pool = _pool(60, speakers)
    mix = Mix(pool, 8, STEP, 0.0, 1)
    monkeypatch.setattr(soft_module, "summaries", lambda *_: torch.eye(60).half() * 8)
    bank, targets = Bank(pool.samples, pool.rows, STEP, "cpu"), Targets(mix, "cpu")
    recipe = SoftRecipe(copies=2, seeds=1, epochs=60, batch=16)
    soft, known = soft_labels([], Planner(mix, bank.levels, 1), bank, mix, targets, recipe, pool.rows)
    label = np.array([r.label for r in pool.rows])
    assert (known.argmax(axis=1) == label).mean() > 0.9
    assert (soft.numpy().argmax(axis=1) == label).mean() < 0.6
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(60))
    before = targets.of_clip.clone()
    targets.soften(soft, 0.5)
    torch.testing.assert_close(targets.of_clip, 0.5 * before + 0.5 * soft * targets.class_weight)
