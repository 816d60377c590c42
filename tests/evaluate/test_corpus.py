"""On the real speech, where it is: the committed weights score what the model card says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeemo.data.clips import read_manifest
from edgeemo.evaluate.evaluate import TorchModel, clip_answers, evaluate
from edgeemo.model.checkpoint import DEFAULT_CHECKPOINT
from tests.conftest import CORPUS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.corpus,
    pytest.mark.skipif(not (CORPUS / "manifest.csv").is_file(), reason=f"no real speech at {CORPUS}"),
]


def test_checkpoint_scores_what_its_card_says() -> None:
    card = json.loads(Path(DEFAULT_CHECKPOINT).with_suffix(".scores.json").read_text())
    clips = [c for c in read_manifest(CORPUS, "dev") if c.label is not None]
    model = TorchModel(DEFAULT_CHECKPOINT)
    report = evaluate(model, clips, clip_answers(model, clips))
    assert report["macro_f1"] == pytest.approx(card["dev"]["macro_f1"], abs=0.005)
