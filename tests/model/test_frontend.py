from __future__ import annotations

import torch

from edgeemo.model.config import ModelConfig
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.frontend import FilterbankFrontend, mel_filterbank


def test_split_dft_is_the_dft() -> None:
    front = FilterbankFrontend(ModelConfig())
    frames = torch.randn(2, 5, 208)
    reference = torch.fft.rfft((frames * front.window)[..., :200], 256).abs() ** 2
    reference[..., 0] += reference[..., 128]  # they share a place
    torch.testing.assert_close(front.power(frames), reference[..., front.bin_of], rtol=1e-4, atol=1e-3)


def test_every_bin_is_counted_once() -> None:
    """On the 128 values of the split transform, the bank weighs a spectrum as the 129-bin bank does."""
    config = ModelConfig()
    front = FilterbankFrontend(config)
    spectrum = torch.rand(1, 129)
    dense = spectrum @ (torch.nn.functional.softplus(front.filters) * front.support)
    assert sorted(front.bin_of.tolist()) == list(range(128))
    torch.testing.assert_close(spectrum[:, front.bin_of] @ front.weights(), dense)


def test_no_band_has_a_weight_where_two_bins_share_a_place() -> None:
    """Mel's lowest band begins at 60 Hz, its highest ends at half the sample rate."""
    assert not mel_filterbank(ModelConfig())[[0, 128]].any()


def test_filterbank_is_mel_and_stays_non_negative() -> None:
    front = FilterbankFrontend(ModelConfig())
    mel = torch.from_numpy(mel_filterbank(ModelConfig()))
    dense = torch.nn.functional.softplus(front.filters)
    assert (dense - mel).abs().max() < 1e-3
    assert (mel.sum(dim=0) > 0).all()
    with torch.no_grad():
        front.filters.sub_(100.0)
    assert (front.weights() >= 0).all()


def test_frame_grid_is_that_of_the_whole_signal() -> None:
    """The twelve slices of one step are the same frames that many steps unfold."""
    front = FilterbankFrontend(ModelConfig())
    pcm = torch.randn(1, front.history + 3 * 1280)
    whole = front.frames(pcm, 3)
    parts = [front.frames(pcm[:, s * 1280 : s * 1280 + front.history + 1280], 1) for s in range(3)]
    assert torch.equal(whole, torch.cat(parts, dim=1))
    assert whole.shape[1] == 3 * ModelConfig().frames_per_step


def test_level_does_not_matter() -> None:
    model = CosyVoiceTiny().eval()
    pcm = torch.randn(1, 3 * 1280) * 0.1
    with torch.no_grad():
        loud, _, _ = model.features(pcm, model.initial_state(1), 3)
        quiet, _, _ = model.features(pcm * 0.03, model.initial_state(1), 3)
    assert (loud - quiet).abs().max() < 1e-3


def test_ring_is_51_frames() -> None:
    config = ModelConfig()
    assert config.ring_frames == 51
    assert config.head_past + config.tokens_per_step == 12


def test_only_what_is_loud_counts_as_heard() -> None:
    """A step by its energy over the running level, at most one; and without any the answer says next to nothing."""
    torch.manual_seed(0)
    model = CosyVoiceTiny().eval()
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
