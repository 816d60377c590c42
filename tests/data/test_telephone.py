from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeemo.data.lines import LINES
from edgeemo.data.telephone import TelephoneChannel, band_pass, g711, through_line


@given(st.floats(-1, 1, width=32), st.sampled_from(["mu", "a"]))
def test_g711_is_close_odd_and_bounded(value: float, law: str) -> None:
    x = torch.tensor([value])
    y = float(g711(x, law)[0])
    assert abs(y) <= 1.0 + 1e-6
    assert float(g711(-x, law)[0]) == pytest.approx(-y, abs=1e-7)
    assert abs(y - value) <= 0.025 * abs(value) + 0.006


@pytest.mark.parametrize("law", ["mu", "a"])
def test_g711_twice_is_once(law: str) -> None:
    once = g711(torch.linspace(-1, 1, 999), law)
    torch.testing.assert_close(g711(once, law), once, rtol=1e-4, atol=1e-5)


def test_band_pass_keeps_the_middle_and_drops_the_edges() -> None:
    t = torch.arange(8000) / 8000
    for hertz, kept in ((1000.0, 1.0), (60.0, 0.0), (3900.0, 0.0)):
        tone = torch.sin(2 * torch.pi * hertz * t)[None]
        gain = band_pass(tone, 300.0, 3400.0).pow(2).mean().sqrt() / tone.pow(2).mean().sqrt()
        assert float(gain) == pytest.approx(kept, abs=0.02)


def test_channel_is_repeatable_and_in_range() -> None:
    x = torch.randn(4, 8000) * 0.1
    a, b = TelephoneChannel(5, 0.5)(x), TelephoneChannel(5, 0.5)(x)
    assert torch.equal(a, b)
    assert a.abs().max() <= 1.0
    assert not torch.equal(a, x)


@pytest.mark.parametrize("line", LINES)
def test_lines_are_repeatable_and_as_loud_as_they_say(line: str) -> None:
    clip = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    out = through_line(clip, line, 3)
    np.testing.assert_array_equal(out, through_line(clip, line, 3))
    assert out.dtype == np.float32 and out.shape == clip.shape
    if line.startswith("noise"):
        snr = 10 * np.log10(np.mean(clip**2) / np.mean((out - clip) ** 2))
        assert snr == pytest.approx(float(line[5:]), abs=0.3)
    if line == "clean":
        assert out is clip
