"""Encodings of live audio: how many bytes a sample takes, and how bytes become float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeemo_runtime import g711
from edgeemo_runtime.errors import EdgeEmoError, printable
from edgeemo_runtime.rates import MAX_RATE, MIN_RATE

# Bytes of a sample. s16be is what RTP's L16 is (RFC 3551, 4.5.11), f32 what sherpa-onnx clients send.
WIDTHS = {"mulaw": 1, "alaw": 1, "s16": 2, "s16be": 2, "f32": 4}
NAMES = {
    "ulaw": "mulaw", "mulaw": "mulaw", "pcmu": "mulaw", "audio/x-mulaw": "mulaw", "audio/pcmu": "mulaw",
    "alaw": "alaw", "pcma": "alaw", "audio/x-alaw": "alaw", "audio/pcma": "alaw",
    "s16": "s16", "s16le": "s16", "pcm": "s16", "slin": "s16", "linear16": "s16", "l16": "s16", "pcm_s16le": "s16",
    "audio/x-l16": "s16", "audio/l16": "s16", "base64": "s16", "raw/slin": "s16", "audio/pcm": "s16",
    "s16be": "s16be", "f32": "f32", "f32le": "f32",
}  # fmt: skip
MULAW_SILENCE, ALAW_SILENCE = b"\xff", b"\xd5"


@dataclass(frozen=True)
class Format:
    """One channel of headerless audio. Raises EdgeEmoError for an encoding or rate that is not read."""

    encoding: str  # a key of WIDTHS
    rate: int  # Hz

    def __post_init__(self) -> None:
        if self.encoding not in WIDTHS:
            raise EdgeEmoError(f"no encoding {printable(str(self.encoding)[:40])}; there are {', '.join(WIDTHS)}")
        if isinstance(self.rate, bool) or not isinstance(self.rate, int) or not MIN_RATE <= self.rate <= MAX_RATE:
            raise EdgeEmoError(f"the rate must be {MIN_RATE} to {MAX_RATE} Hz, not {printable(repr(self.rate)[:40])}")

    @property
    def width(self) -> int:
        """Bytes of a sample."""
        return WIDTHS[self.encoding]

    @property
    def bytes_per_second(self) -> int:
        return self.width * self.rate


def parse_format(encoding: object, rate: object) -> Format:
    """A format by any of its usual names. Raises EdgeEmoError for one that is not read."""
    name = NAMES.get(encoding.lower()) if isinstance(encoding, str) else None
    if name is None:
        raise EdgeEmoError(f"no encoding {printable(repr(encoding)[:40])}; there are {', '.join(WIDTHS)}")
    if isinstance(rate, str) and rate.isascii() and rate.isdigit() and len(rate) < 8:
        rate = int(rate)
    if isinstance(rate, float) and rate.is_integer():
        rate = int(rate)
    return Format(name, rate)  # type: ignore[arg-type]  # checked there


def decode(data: bytes, encoding: str) -> np.ndarray:
    """Whole samples as float32 (n,) in [-1, 1]; float samples that are beyond or not finite are clipped, or become 0."""
    if encoding in ("mulaw", "alaw"):
        return g711.decode(data, encoding).astype(np.float32) / 32768.0
    if encoding == "f32":
        samples = np.nan_to_num(np.frombuffer(data, dtype="<f4"), nan=0.0, posinf=1.0, neginf=-1.0)
        return np.ascontiguousarray(samples.clip(-1.0, 1.0), dtype=np.float32)
    return np.frombuffer(data, dtype=">i2" if encoding == "s16be" else "<i2").astype(np.float32) / 32768.0


def split_channels(data: bytes, width: int, channels: int) -> list[bytes]:
    """Interleaved samples of ``width`` bytes, one piece per channel; what is left of a frame at the end is dropped.

    b"aabbccdd" of width 2 and two channels: b"aacc", b"bbdd".
    """
    whole = len(data) // (width * channels) * width * channels
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[width]
    frames = np.frombuffer(data, dtype=kind, count=whole // width)
    return [frames[channel::channels].tobytes() for channel in range(channels)]
