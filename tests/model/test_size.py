from __future__ import annotations

from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.size import model_size


def test_size_is_what_the_mission_says() -> None:
    size = model_size(CosyVoiceTiny())
    assert 22e6 < size.fp32_bytes < 24e6
    assert size.macs_per_step <= 12.3e6
    assert 0.02 < size.emotion_conv_macs / size.macs_per_step < 0.04
