"""Training on a handful of clips: it learns, and the same seed gives the same weights."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from edgeemo.data.clips import Clip, find_clips
from edgeemo.data.corpus import Batch, Corpus
from edgeemo.evaluate.evaluate import clip_answers, open_model
from edgeemo.evaluate.evaluate import evaluate as report
from edgeemo.model.checkpoint import load_checkpoint, save_checkpoint
from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.train.trainer import Recipe, clip_log_probabilities, evaluate, train
from tests.conftest import CALIBRATION

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    clips = find_clips(CALIBRATION)[::8]
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label7", "split"])
        for i, clip in enumerate(clips):
            from edgeemo.model.config import LABELS

            assert clip.label is not None
            (folder / clip.path.name).write_bytes(clip.path.read_bytes())
            writer.writerow([clip.path.name, LABELS[clip.label], "dev" if i % 4 == 0 else "train"])
    return folder


def test_same_seed_same_bytes_other_seed_other_bytes(small_corpus: Path, tmp_path: Path) -> None:
    made = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train([small_corpus], tmp_path / name, Recipe(epochs=1, batch=8, seed=seed), threads=1)
        made[name] = (tmp_path / name).read_bytes()
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]


def test_loss_falls_on_a_batch_it_sees_again(small_corpus: Path) -> None:
    torch.manual_seed(0)
    model = CosyVoiceNano()
    corpus = Corpus([Clip(c.path, c.label) for c in find_clips(CALIBRATION)[::25]], 8000, 1280)
    batch, _ = next(corpus.batches(8))
    steps = batch.pcm.shape[1] // 1280
    features, _, _, _ = model.features(batch.pcm, model.initial_state(len(batch.pcm)), steps)
    features = features.detach()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.nll_loss(clip_log_probabilities(model, features, batch)[0], batch.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_clip_answer_is_the_mean_of_real_steps_only() -> None:
    model = CosyVoiceNano().eval()
    pcm = torch.randn(2, 6 * 1280) * 0.1
    features, _, _, _ = model.features(pcm, model.initial_state(2), 6)
    mean, log_p, _ = clip_log_probabilities(model, features, Batch(pcm, torch.tensor([6, 2]), torch.zeros(2)))
    torch.testing.assert_close(mean[1].exp(), log_p[1, :2].exp().mean(dim=0))


def test_dev_score_is_what_eval_prints(tmp_path: Path) -> None:
    """The trainer had left out what the model scales its logits with, and so chose by a score that nobody gets."""
    torch.manual_seed(3)
    model = CosyVoiceNano()
    with torch.no_grad():  # sure enough of itself that the scaling changes answers
        model.head.classifier.weight.mul_(40)
    path = tmp_path / "m.safetensors"
    save_checkpoint(model, path)
    clips = [c for c in find_clips(CALIBRATION) if c.label is not None][::5]
    printed = report(open_model(path), clips, clip_answers(open_model(path), clips))["macro_f1"]
    saved = load_checkpoint(path)
    assert isinstance(saved, CosyVoiceNano)
    assert evaluate(saved, Corpus(clips, 8000, 1280)) == pytest.approx(printed, abs=1e-4)
