"""Training a windowed model on a handful of clips, alone and from soft labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.model.checkpoint import load_checkpoint, save_checkpoint
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.mfcc_bilstm import MfccBiLstm
from edgeemo.model.whisper import WhisperEncoder
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
        report = train_windowed(KIND, small_corpus, tmp_path / name, recipe, 1, teachers=told, unlabelled=unlabelled)
        made[name] = (tmp_path / name).read_bytes()
        assert len(report["dev_macro_f1"]) == 2  # type: ignore[arg-type]
        assert all(torch.isfinite(p).all() for p in load_checkpoint(tmp_path / name).parameters())
    assert made["a"] == made["b"]
    assert made["c"] == made["d"]
    assert len({made[n] for n in "ace"}) == 3


def test_a_checkpoint_of_another_model_is_refused(small_corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    save_checkpoint(CosyVoiceTiny(), tmp_path / "other")
    with pytest.raises(EdgeEmoError, match="--model cosyvoice-tiny"):
        train_windowed(KIND, small_corpus, tmp_path / "x", RECIPES[KIND], 1, tmp_path / "other")
