"""The windowed models: whole clips equal steps, silence before a call, and Whisper's spectrum at half its rate."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
import torch

from edgeemo.model.mfcc_bilstm import MfccBiLstm, MfccConfig
from edgeemo.model.whisper import WhisperEncoder
from edgeemo.model.whisper_cls import WhisperConfig, WhisperTinyCls
from edgeemo.model.windowed import WindowedModel

WHISPER = WhisperConfig(width=32, heads=2, layers=2, window_steps=4)
MFCC = MfccConfig(hidden=12, window_steps=4)


@pytest.fixture(params=["whisper", "mfcc"])
def windowed(request: pytest.FixtureRequest) -> WindowedModel:
    torch.manual_seed(1)
    made = WhisperTinyCls(WHISPER) if request.param == "whisper" else MfccBiLstm(MFCC)
    return made.eval()


@pytest.fixture
def pcm() -> torch.Tensor:
    return torch.from_numpy(0.1 * np.random.default_rng(2).standard_normal((2, 9 * 1280)).astype(np.float32))


def run(model: WindowedModel, pcm: torch.Tensor, chunk: int) -> torch.Tensor:
    state, answers = model.initial_state(len(pcm)), []
    with torch.inference_mode():
        for part in pcm.split(chunk * 1280, dim=1):
            p, state = model(part, state, part.shape[1] // 1280)
            answers.append(p)
    return torch.cat(answers, dim=1)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_steps_equal_the_whole_clip(windowed: WindowedModel, pcm: torch.Tensor, chunk: int) -> None:
    torch.testing.assert_close(run(windowed, pcm, chunk), run(windowed, pcm, 9), atol=1e-5, rtol=1e-4)


def test_only_the_window_counts(windowed: WindowedModel, pcm: torch.Tensor) -> None:
    """Four steps of 160 ms and the 15 ms of history of their first frame: what came before changes nothing."""
    other = pcm.clone()
    other[:, : 4 * 1280] *= -0.3
    a, b = run(windowed, pcm, 9), run(windowed, other, 9)
    torch.testing.assert_close(a[:, 8], b[:, 8], atol=1e-6, rtol=1e-5)
    assert (a[:, 4] - b[:, 4]).abs().max() > 1e-4


def test_level_means_nothing_and_silence_is_finite(windowed: WindowedModel, pcm: torch.Tensor) -> None:
    torch.testing.assert_close(run(windowed, pcm, 9), run(windowed, 0.25 * pcm, 9), atol=1e-4, rtol=1e-3)
    silent = run(windowed, torch.zeros(1, 9 * 1280), 3)
    assert torch.isfinite(silent).all()
    torch.testing.assert_close(silent.sum(dim=2), torch.ones(1, 9))


def test_before_the_call_tokens_are_not_pooled(windowed: WindowedModel) -> None:
    x = torch.arange(8.0).reshape(1, 8, 1)
    pooled = windowed.pooled(x, torch.tensor([[2.0]]))  # two of four steps: the last four of eight tokens
    torch.testing.assert_close(pooled, torch.tensor([[5.5, np.sqrt(1.25)]], dtype=torch.float32))


def test_frames_hold_what_whisper_hears_at_16_khz() -> None:
    """Steady tones, where 2.5 ms between the frames of the two do not matter: every band that holds sound agrees."""
    t = np.arange(16000) / 8000
    tones = sum(0.1 * np.sin(2 * np.pi * f * t) for f in (220, 700, 1500, 2900)).astype(np.float32)
    model = WhisperTinyCls(WHISPER)
    pcm = torch.cat([torch.zeros(120), torch.from_numpy(tones)])[None]
    mine = model.scaled(model.log_mel(pcm))[0, 50:150]
    whisper = WhisperEncoder(32, 2, 2).log_mel(torch.from_numpy(soxr.resample(tones, 8000, 16000))[None])[0].T[50:150]
    difference = mine - (whisper - whisper.max() + 1.0)
    loud = mine.mean(dim=0) > 0.5
    assert loud.sum() > 10
    assert difference[:, loud].abs().max() < 0.05


def test_unrolled_lstm_is_the_lstm(pcm: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = MfccBiLstm(MFCC).eval()
    x = torch.randn(3, 16, 3 * MFCC.cepstra * MFCC.stacked)
    model.fold()
    with torch.inference_mode():
        torch.testing.assert_close(model._unrolled(x), model.lstm(x)[0], atol=1e-6, rtol=1e-5)


def test_cepstra_against_the_definition() -> None:
    model = MfccBiLstm(MFCC).eval()
    mel = torch.randn(1, 64, MFCC.bands)
    c = model.cepstra(mel)[0].numpy()
    n = np.arange(MFCC.bands)
    static = np.stack([(mel[0].numpy() * np.cos(np.pi * k * (n + 0.5) / MFCC.bands)).sum(axis=1) for k in range(13)], axis=1)
    static *= np.sqrt(2 / MFCC.bands)
    np.testing.assert_allclose(c[:, :13], static, atol=1e-4)
    at = 30
    delta = sum(k * (static[at + k] - static[at - k]) for k in (1, 2)) / (2 * (1 + 4))
    np.testing.assert_allclose(c[at, 13:26], delta, atol=1e-4)
