"""Audio files to mono float32 at the model's rate. Needs the extra ``edgeemo-runtime[files]`` (soundfile, soxr)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeemo_runtime import g711
from edgeemo_runtime.errors import EdgeEmoError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".aiff", ".au")
# Files without a header, and how they are encoded.
RAW_SUFFIXES = {".pcm": "s16", ".raw": "s16", ".ul": "mulaw", ".ulaw": "mulaw", ".al": "alaw", ".alaw": "alaw"}
ENCODINGS = {"s16": 2, "mulaw": 1, "alaw": 1}  # bytes a sample


def _need_files_extra() -> None:
    try:
        import soundfile  # noqa: F401
        import soxr  # noqa: F401
    except ImportError as error:
        raise EdgeEmoError(
            f"audio files and other rates need {error.name}: pip install soundfile soxr (the extra edgeemo-runtime[files]); "
            "raw PCM on stdin at the model's rate needs neither"
        ) from error


def check_samples(samples: np.ndarray, name: str) -> None:
    """Raises EdgeEmoError naming ``name`` if the samples are none, or not all finite."""
    if samples.size == 0:
        raise EdgeEmoError(f"{name}: holds no samples; give a clip with audio in it")
    if not np.isfinite(samples).all():
        first = int(np.flatnonzero(~np.isfinite(samples.reshape(samples.shape[0], -1)).all(axis=1))[0])
        raise EdgeEmoError(f"{name}: sample {first} is NaN or infinite; write the file again from its source")


def _open_file(path: Path, use: Callable[[Path], Any]) -> Any:
    """``use`` of an audio file. Raises EdgeEmoError naming it if it is missing, or not audio."""
    _need_files_extra()
    import soundfile

    if not path.is_file():
        raise EdgeEmoError(f"{path}: no such file")
    try:
        return use(path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise EdgeEmoError(f"{path}: not an audio file that libsndfile reads ({str(error).rsplit(': ', 1)[-1]})") from error


def audio_seconds(path: str | Path) -> float:
    """Length of a file, without reading it all. Raises EdgeEmoError naming it if it is missing or not audio."""
    import soundfile

    return float(_open_file(Path(path), soundfile.info).duration)


def load_audio(path: str | Path, rate: int) -> np.ndarray:
    """Reads WAV, FLAC, OGG (whatever libsndfile reads) at any rate, mono or more.

    Returns float32 (samples,) in [-1, 1] at ``rate`` Hz; channels are averaged, rates converted by soxr (HQ).
    Raises EdgeEmoError naming the file if it is missing, not audio, empty, or not finite.
    """
    _need_files_extra()
    import soundfile
    import soxr

    path = Path(path)
    samples, source_rate = _open_file(path, lambda p: soundfile.read(p, dtype="float32", always_2d=True))
    check_samples(samples, str(path))
    mono = samples.mean(axis=1)
    if source_rate != rate:
        mono = soxr.resample(mono, source_rate, rate)
    check_samples(mono, str(path))
    return np.ascontiguousarray(mono, dtype=np.float32)


def decode_raw(data: bytes, encoding: str) -> np.ndarray:
    """Whole samples of headerless mono audio, float32 in [-1, 1]: s16 (little-endian), mulaw or alaw (G.711)."""
    samples = np.frombuffer(data, dtype="<i2") if encoding == "s16" else g711.decode(data, encoding)
    return samples.astype(np.float32) / 32768.0


def load_call(path: str | Path, rate: int, raw_rate: int) -> np.ndarray:
    """As load_audio, and headerless files by their suffix (.pcm, .raw, .ul, .ulaw, .al, .alaw) at ``raw_rate`` Hz."""
    path = Path(path)
    encoding = RAW_SUFFIXES.get(path.suffix.lower())
    if encoding is None:
        return load_audio(path, rate)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EdgeEmoError(f"{path}: cannot be read ({error.strerror})") from error
    samples = decode_raw(data[: len(data) // ENCODINGS[encoding] * ENCODINGS[encoding]], encoding)
    check_samples(samples, str(path))
    return stream_resampler(raw_rate, rate)(samples, True)


def stream_resampler(rate: int, to: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """A function (samples float32, last) -> samples at ``to`` Hz that carries its filter from chunk to chunk."""
    if rate == to:
        return lambda samples, last: samples
    _need_files_extra()
    import soxr

    stream = soxr.ResampleStream(rate, to, 1, dtype="float32")
    return lambda samples, last: stream.resample_chunk(samples, last=last)
