from __future__ import annotations

import pytest
import torch

from edgeemo.model.config import CallConfig, NanoConfig, TinyConfig
from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.frontend import FilterbankFrontend, mel_filterbank, slaney_mel, whisper_filterbank

SIZES = pytest.mark.parametrize("config", [TinyConfig(), NanoConfig()], ids=["tiny", "nano"])


def test_split_dft_is_the_dft() -> None:
    front = FilterbankFrontend(NanoConfig())
    frames = torch.randn(2, 5, 208)
    reference = torch.fft.rfft((frames * front.window)[..., :200], 256).abs() ** 2
    reference[..., 0] += reference[..., 128]  # they share a place
    torch.testing.assert_close(front.power(frames), reference[..., front.bin_of], rtol=1e-4, atol=1e-3)


def test_every_bin_is_counted_once() -> None:
    """On the 128 values of the split transform, the bank weighs a spectrum as the 129-bin bank does."""
    front = FilterbankFrontend(NanoConfig())
    spectrum = torch.rand(1, 129)
    dense = spectrum @ (torch.nn.functional.softplus(front.filters) * front.support)
    assert sorted(front.bin_of.tolist()) == list(range(128))
    torch.testing.assert_close(spectrum[:, front.bin_of] @ front.weights(), dense)


def test_no_band_has_a_weight_where_two_bins_share_a_place() -> None:
    """Mel's lowest band begins at 60 Hz, its highest ends at half the sample rate; what Whisper's have there is left out."""
    assert not mel_filterbank(NanoConfig())[[0, 128]].any()
    assert not FilterbankFrontend(TinyConfig()).support[[0, 128]].any()


def test_the_wide_model_begins_with_the_lower_bands_of_whisper() -> None:
    bank = whisper_filterbank(TinyConfig())
    at_16_khz = slaney_mel(257, 80, 16000)
    assert (bank[:, :63].sum(axis=0) > 0).all()
    assert not at_16_khz[:129, 63:].any()  # a call has nothing there; the 64th band is the floor of all of them
    torch.testing.assert_close(torch.from_numpy(bank * at_16_khz.max()), torch.from_numpy(at_16_khz[:129, :64]))


def test_filterbank_is_mel_and_stays_non_negative() -> None:
    front = FilterbankFrontend(NanoConfig())
    mel = torch.from_numpy(mel_filterbank(NanoConfig()))
    dense = torch.nn.functional.softplus(front.filters)
    assert (dense - mel).abs().max() < 1e-3
    assert (mel.sum(dim=0) > 0).all()
    with torch.no_grad():
        front.filters.sub_(100.0)
    assert (front.weights() >= 0).all()


@SIZES
def test_frame_grid_is_that_of_the_whole_signal(config: CallConfig) -> None:
    """The slices of one step are the same frames that many steps unfold."""
    front = FilterbankFrontend(config)
    pcm = torch.randn(1, front.history + 3 * 1280)
    whole = front.frames(pcm, 3)
    parts = [front.frames(pcm[:, s * 1280 : s * 1280 + front.history + 1280], 1) for s in range(3)]
    assert torch.equal(whole, torch.cat(parts, dim=1))
    assert whole.shape[1] == 3 * config.frames_per_step


def test_level_does_not_matter() -> None:
    """Neither to features nor to what the wide model sums up by energy."""
    torch.manual_seed(0)
    pcm = torch.randn(1, 3 * 1280) * 0.1
    for model in (CosyVoiceTiny().eval(), CosyVoiceNano().eval()):
        with torch.no_grad():
            loud = model.features(pcm, model.initial_state(1), 3)[0]
            quiet = model.features(pcm * 0.03, model.initial_state(1), 3)[0]
            answers = [model(x, model.initial_state(1), 3)[0] for x in (pcm, pcm * 0.03)]
        assert (loud - quiet).abs().max() < 1e-3
        assert (answers[0] - answers[1]).abs().max() < 1e-3


@SIZES
def test_ring_is_51_frames(config: CallConfig) -> None:
    assert config.ring_frames == 51
    assert config.longest == 25


def test_only_what_is_loud_counts_as_heard() -> None:
    """A step by its energy over the running level, at most one; and without any the answer says next to nothing."""
    torch.manual_seed(0)
    model = CosyVoiceNano().eval()
    loud, faint = torch.randn(1, 6 * 1280) * 0.1, torch.randn(1, 6 * 1280) * 0.003
    with torch.inference_mode():
        _, first = model(loud, model.initial_state(1), 6)
        _, then = model(faint, first, 6)
        silent, state = model(torch.zeros(1, 6 * 1280), model.initial_state(1), 6)
        long, _ = model(torch.randn(1, 30 * 1280) * 0.1, model.initial_state(1), 30)
    assert 5 < float(first["spoken"]) <= 6
    assert float(then["spoken"]) - float(first["spoken"]) < 0.1
    assert float(state["spoken"]) == 0
    assert (silent - 1 / 7).abs().max() < 1e-3
    assert (long[0, -1] - 1 / 7).abs().max() > 10 * (silent - 1 / 7).abs().max()
