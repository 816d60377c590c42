"""Answers about a whole clip: after its last step, or on the mean of its windows; the same at each stage of the chain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.evaluate.evaluate import clip_probabilities, open_model
from edgeemo.model.checkpoint import committed_checkpoint, load_checkpoint
from edgeemo.model.names import COSYVOICE_NANO, COSYVOICE_TINY, MFCC_BILSTM
from edgeemo.onnxlib.contract import StreamContract


def test_a_call_is_answered_by_its_last_step_and_windows_by_their_mean() -> None:
    clips = [np.float32([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.float32([[0.4, 0.6]])]
    np.testing.assert_allclose(clip_probabilities("call", clips), [[0.3, 0.7], [0.4, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(clip_probabilities("window", clips), [[2 / 3, 1 / 3], [0.4, 0.6]], rtol=1e-6)


@pytest.mark.parametrize(("kind", "hears"), [(COSYVOICE_TINY, "call"), (COSYVOICE_NANO, "window"), (MFCC_BILSTM, "window")])
def test_what_the_committed_models_hear(kind: str, hears: str) -> None:
    assert load_checkpoint(committed_checkpoint(kind)).hears == hears


def test_every_stage_of_the_chain_says_it(files: dict[str, Path], host_artifacts: dict[str, Path]) -> None:
    stages = [files["float"], files["int8"], host_artifacts["float"], host_artifacts["int8"]]
    assert [open_model(p).hears for p in stages] == ["call"] * 4


def test_a_contract_of_before_hears_a_window_and_another_word_is_refused() -> None:
    values = json.loads(StreamContract(8000, 1280, 4, 400, ("a", "b"), "audio", "p", (), hears="call").to_json())
    assert StreamContract.from_json(json.dumps(values), "m").hears == "call"
    assert StreamContract.from_json(json.dumps({k: v for k, v in values.items() if k != "hears"}), "m").hears == "window"
    with pytest.raises(EdgeEmoError, match="hears 'all'"):
        StreamContract.from_json(json.dumps({**values, "hears": "all"}), "m")
