"""CosyVoice-Tiny from Whisper's front: it begins as Whisper hears, learns from a mix, goes on where it was cut off."""

from __future__ import annotations

import copy
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import Clip, find_clips
from edgeemo.model.checkpoint import load_checkpoint, save_checkpoint
from edgeemo.model.config import LABELS, TinyConfig
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.whisper import WhisperEncoder
from edgeemo.train import listener
from edgeemo.train.head import Summaries
from edgeemo.train.listener import ListenerRecipe, scores, train_listener
from edgeemo.train.mix import VOTES, Mix, Pool, Row, read_votes, target_of
from edgeemo.train.start import begin_with_whisper
from edgeemo.train.sureness import Steps, errors, fit_sureness, last_steps, sessions
from edgeemo.train.whisper_states import Teacher
from tests.conftest import CALIBRATION

pytestmark = pytest.mark.slow
SMALL = ListenerRecipe(updates=4, batch=4, steps=8, session_steps=16, sessions=40)


@pytest.fixture
def encoder() -> WhisperEncoder:
    """An encoder of tiny.en's shape, random: the real one needs a package."""
    torch.manual_seed(1)
    made = WhisperEncoder(384, 6, 4).eval()
    angle = torch.arange(1500)[:, None] * 10000.0 ** (-torch.arange(192) / 191)
    made.positions.copy_(torch.cat([torch.sin(angle), torch.cos(angle)], dim=1))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("corpus")
    with (made / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label7", "split", "corpus", "speaker"])
        for i, clip in enumerate(find_clips(CALIBRATION)[::10]):
            assert clip.label is not None
            (made / clip.path.name).write_bytes(clip.path.read_bytes())
            writer.writerow([clip.path.name, LABELS[clip.label], "dev" if i % 4 == 0 else "train", f"c{i % 2}", f"s{i % 5}"])
    return made


def test_begins_as_whisper_hears(encoder: WhisperEncoder) -> None:
    """The same log-mel a frame later, the same first weights, no head lost."""
    torch.manual_seed(2)
    model = CosyVoiceTiny().eval()
    teacher = Teacher(encoder, (2, 4))
    pcm = torch.randn(2, 8 * 1280) * 0.1 * torch.rand(2, 8, 1).repeat_interleave(1280, dim=1).reshape(2, -1)
    begin_with_whisper(model, encoder, teacher.mel(pcm))
    with torch.no_grad():
        state = model.initial_state(2)
        features = model.features(pcm, state, 8)[0]
        theirs = teacher.mel(pcm).transpose(1, 2)[..., :63]
    ours = features[:, :-1, :63].flatten().numpy()  # theirs counts from the middle of a frame: one later
    assert np.corrcoef(ours, theirs[:, 1 : features.shape[1]].flatten().numpy())[0, 1] > 0.85
    assert torch.equal(model.stem.conv1.weight, encoder.conv1.weight[:, :64])
    total = sum(p.qkv.weight.square().sum() for p in (model.layers[0].local_path, model.layers[0].global_path))
    torch.testing.assert_close(total, encoder.layers[0]["qkv"].weight.square().sum())


def test_positions_are_whispers_and_come_round(encoder: WhisperEncoder) -> None:
    model = CosyVoiceTiny()
    with torch.no_grad():
        first, _ = model.positions(torch.zeros(1, 384), 12)
        whole, after = model.positions(torch.zeros(1, 384), 188)
    pairs = encoder.positions[:96].reshape(48, 2, 384).mean(dim=1)
    assert (first[0] - pairs).abs().mean() < 0.05
    assert after.abs().max() < 1e-4
    assert whole.shape == (1, 752, 384)


def test_audio_is_decoded_once(folder: Path, tmp_path: Path) -> None:
    pool = Pool.load([folder], 8000, tmp_path / "a.npy")
    again = Pool.load([folder], 8000, tmp_path / "a.npy")
    assert [r.at for r in again.rows] == [r.at for r in pool.rows]
    assert len(Pool.load([folder, CALIBRATION], 8000, tmp_path / "a.npy").rows) > len(pool.rows)  # other folders, other clips
    for name, content in (("a.json", "{"), ("a.json", "[]"), ("a.npy", "")):  # cut, somebody else's, cut
        Pool.load([folder], 8000, tmp_path / "a.npy")
        (tmp_path / name).write_text(content)
        assert Pool.load([folder], 8000, tmp_path / "a.npy").rows == pool.rows


def test_votes_are_part_of_a_target_and_arousal_is_no_emotion(tmp_path: Path) -> None:
    (tmp_path / VOTES).write_text("path,angry,happy\na/1.ogg,3,1\nb.ogg,0,0\n")
    votes = read_votes(tmp_path)
    assert list(votes) == ["a/1.ogg"]
    target = target_of(Clip(Path("a/1.ogg"), 0, corpus="cremad"), votes["a/1.ogg"])
    assert target is not None
    assert sum(target) == pytest.approx(1.0)
    assert target[0] > 0.8
    assert target[1] > 0.05
    assert target_of(Clip(Path("x"), 3, corpus="baved"), None) is None


def test_same_seed_same_bytes_and_a_cut_run_goes_on(
    folder: Path,
    tmp_path: Path,
    encoder: WhisperEncoder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(listener, "load_whisper", lambda: copy.deepcopy(encoder))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        report = train_listener([folder], tmp_path / name / "m.safetensors", SMALL, 1)
    assert set(report["dev"]) == {"all", "mean", "c0"}  # type: ignore[call-overload]
    made = [(tmp_path / name / "m.safetensors").read_bytes() for name in ("a", "b")]
    assert made[0] == made[1]
    model = load_checkpoint(tmp_path / "a" / "m.safetensors")
    assert isinstance(model, CosyVoiceTiny)
    assert model.config.sure_half != CosyVoiceTiny().config.sure_half  # fitted
    assert "follow     2/2" in capsys.readouterr().err
    report = train_listener([folder], tmp_path / "a" / "m.safetensors", SMALL, 1, resume=True)
    assert "follow " not in capsys.readouterr().err  # nothing was left of that
    assert (tmp_path / "a" / "m.safetensors").read_bytes() == made[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeEmoError, match="no CUDA device"):
        train_listener([folder], tmp_path / "m.safetensors", SMALL, 1, device="cuda")


def test_it_ends_when_its_time_is_up(
    folder: Path, tmp_path: Path, encoder: WhisperEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listener, "load_whisper", lambda: copy.deepcopy(encoder))
    train_listener([folder], tmp_path / "m.safetensors", replace(SMALL, updates=10**6, minutes=1e-6, soft=0.0), 1)
    assert "follow " not in capsys.readouterr().err  # of a million updates it got to the end of none
    load_checkpoint(tmp_path / "m.safetensors")


def test_a_classifier_goes_on_to_learn_and_keeps_half_of_what_it_was(folder: Path, tmp_path: Path) -> None:
    """Without updates of the encoder nothing else changes, and no teacher is asked for."""
    torch.manual_seed(0)
    save_checkpoint(CosyVoiceTiny(TinyConfig(intensity=True)), tmp_path / "init.safetensors")
    init = load_checkpoint(tmp_path / "init.safetensors")
    recipe = replace(SMALL, updates=0)
    with pytest.raises(EdgeEmoError, match="--init"):
        train_listener([folder], tmp_path / "m.safetensors", recipe, 1)
    report = train_listener([folder], tmp_path / "m.safetensors", recipe, 1, tmp_path / "init.safetensors")
    assert set(report["dev_before"]) == set(report["dev"])  # type: ignore[call-overload]
    tuned = load_checkpoint(tmp_path / "m.safetensors")
    assert not tuned.config.intensity
    assert torch.equal(tuned.layers[0].ffn.up.weight, init.layers[0].ffn.up.weight)
    assert torch.equal(tuned.head.mean, init.head.mean)
    assert not torch.equal(tuned.head.classifier.weight, init.head.classifier.weight[: len(LABELS)])


def test_answers_from_summaries_are_what_a_call_gives(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CosyVoiceTiny(TinyConfig(sure_least=0.5, sure_more=2.0)).eval()
    pool = Pool.load([folder], 8000, tmp_path / "a.npy")
    rows = pool.of("dev")[:3]
    answers = Summaries.of(model, pool, rows, 2).answers(model)
    audio = pool.audio(rows[0])
    steps = -(-len(audio) // 1280)
    pcm = torch.zeros(1, steps * 1280)
    pcm[0, : len(audio)] = torch.from_numpy(audio)
    with torch.no_grad():
        alone, _ = model(pcm, model.initial_state(1), steps)
        _, spoken, _ = model.answers(pcm, model.initial_state(1), steps)
    labelled = spoken[0] >= model.config.least_speech
    assert labelled.any() and not labelled[0]
    np.testing.assert_allclose(answers[0], alone[0][-1].numpy(), atol=5e-3)  # bfloat16 and float16 on the way


def test_sureness_becomes_what_steps_deserve() -> None:
    """Answers that are right half of the time, given as if they were certain."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 7, 4000)
    said = np.where(rng.random(4000) < 0.5, label, (label + 1) % 7)
    logits = torch.nn.functional.one_hot(torch.from_numpy(said), 7).float() * 8
    steps = Steps(
        logits, torch.from_numpy(rng.uniform(0, 25, 4000)).float(), torch.from_numpy(label), torch.arange(4000), torch.zeros(4000)
    )
    model = CosyVoiceTiny()
    assert errors(model, steps)["steps"] > 0.4
    assert errors(fit_sureness(model, steps), steps)["steps"] < 0.05


def test_a_clip_too_short_for_a_label_counts_with_all_its_steps() -> None:
    spoken, clip = torch.tensor([1.0, 3.0, 5.0, 6.0, 1.0, 2.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    steps = Steps(torch.zeros(6, 7), spoken, clip, clip, clip)
    assert steps.answered(CosyVoiceTiny()).tolist() == [False, False, True, True, True, True]
    assert last_steps(steps.clip).tolist() == [3, 5]


def test_a_speaker_of_many_clips_counts_no_more_than_one_of_few() -> None:
    """One speaker whom the model always knows, in 90 clips, and one whom it knows by chance, in 10: half of each."""
    rng = np.random.default_rng(0)
    label, speaker = torch.from_numpy(rng.integers(0, 7, 1000)), torch.from_numpy((np.arange(1000) >= 900).astype(np.int64))
    said = torch.where(speaker == 1, torch.from_numpy(rng.integers(0, 7, 1000)), label)
    logits = torch.nn.functional.one_hot(said, 7).float() * 3
    model, spoken = CosyVoiceTiny(), torch.full((1000,), 20.0)
    fitted = fit_sureness(model, Steps(logits, spoken, label, torch.arange(1000), speaker))
    sure = float(torch.softmax(logits[:1] * fitted.sureness(spoken[:1])[:, None], dim=1).max())
    assert 0.5 < sure < 0.65  # (1 + 1/7) / 2; of all clips alike it would be 0.91


def _rows() -> list[Row]:
    return [Row("c", f"s{i % 2}", "train", i % 3, 0, 16000 + i, [0.1] * 7) for i in range(24)]


def test_sessions_are_clips_of_one_speaker_and_emotion() -> None:
    found = sessions(_rows(), 8000)
    assert [len(s) for s in found[:24]] == [1] * 24
    assert len(found) == 24 + 6  # four clips of 2 s each
    assert all(len({(r.speaker, r.label) for r in s}) == 1 for s in found)


def test_a_session_ends_with_its_clip_and_says_where_its_emotion_begins() -> None:
    mix = Mix(Pool(_rows(), np.zeros(1, np.int16)), 8, 1280, 0.0, 1)
    kinds = set()
    for row in mix.labelled * 8:
        rows, begins = mix.session(row)
        assert rows[-1] is row
        assert {r.speaker for r in rows} == {row.speaker}
        assert {r.label for r in rows[begins:]} == {row.label}
        assert all(r.label != row.label for r in rows[:begins])
        kinds.add((len(rows) > 1, begins > 0))
    assert kinds == {(False, False), (True, False), (True, True)}


def test_scores_count_the_classes_a_corpus_has() -> None:
    rows = [Row(c, "s", "dev", label, 0, 1, None) for c, label in (("a", 0), ("a", 1), ("b", 2))]
    found = scores(rows, np.eye(7)[[0, 1, 3]])
    assert found["a"] == 1.0
    assert found["b"] == 0.0
    assert found["mean"] == 0.5
