"""G.711 companding (ITU-T G.711), one byte to a sample."""

from __future__ import annotations

import numpy as np


def _mulaw() -> np.ndarray:
    """Bits are sent inverted: sign, 3 of segment s, 4 of step m; the value is ((2 m + 33) << s) - 33, in 14 bits."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) * 2 + 33) << (code >> 4 & 7)) - 33
    return np.where(code & 0x80, -magnitude, magnitude) * 4


def _alaw() -> np.ndarray:
    """Every other bit is sent inverted; segment 0 is linear, (2 m + 1), the others (2 m + 33) << (s - 1), in 13 bits."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    step, segment = code & 0x0F, code >> 4 & 7
    magnitude = np.where(segment == 0, 2 * step + 1, (2 * step + 33) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude) * 8


MULAW, ALAW = _mulaw().astype(np.int16), _alaw().astype(np.int16)  # (256,): what each byte stands for


def decode(data: bytes, law: str) -> np.ndarray:
    """``law`` "mulaw" or "alaw"; int16 (len(data),)."""
    return {"mulaw": MULAW, "alaw": ALAW}[law][np.frombuffer(data, dtype=np.uint8)]
