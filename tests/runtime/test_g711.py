"""G.711 against libsndfile's tables and the Recommendation's own values."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from edgeemo_runtime.audio import decode_raw
from edgeemo_runtime.g711 import ALAW, MULAW, decode

ALL = bytes(range(256))


@pytest.mark.parametrize(("law", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_every_code_is_what_libsndfile_says(law: str, subtype: str) -> None:
    reference, _ = soundfile.read(io.BytesIO(ALL), dtype="int16", samplerate=8000, channels=1, format="RAW", subtype=subtype)
    np.testing.assert_array_equal(decode(ALL, law), reference)


def test_ends_and_zero_of_the_recommendation() -> None:
    """ITU-T G.711 tables 1 and 2: largest values +-8031 * 4 (mu, 14 bits) and +-4032 * 8 (A, 13 bits), in 16 bits."""
    assert (MULAW[0x00], MULAW[0x80], MULAW[0xFF], MULAW[0x7F]) == (-32124, 32124, 0, 0)
    assert (ALAW[0x2A], ALAW[0xAA], ALAW[0xD5], ALAW[0x55]) == (-32256, 32256, 8, -8)


def test_raw_samples_are_float_in_range() -> None:
    np.testing.assert_array_equal(decode_raw(b"\x00\x80\xff\x7f", "s16"), np.array([-1, 32767 / 32768], np.float32))
    assert np.abs(decode_raw(ALL, "alaw")).max() < 1
