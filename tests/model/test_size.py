from __future__ import annotations

import pytest

from edgeemo.model.call import CallModel
from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.size import model_size


@pytest.mark.parametrize(("made", "macs"), [(CosyVoiceTiny, 20.5e6), (CosyVoiceNano, 12.3e6)])
def test_size_is_what_the_mission_says(made: type[CallModel], macs: float) -> None:
    size = model_size(made())
    assert 18e6 < size.fp32_bytes < 24e6
    assert size.macs_per_step <= macs
    assert 0.02 < size.emotion_conv_macs / size.macs_per_step < 0.04
