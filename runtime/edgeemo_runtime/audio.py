"""Audio files and streams, read block by block, to mono float32 at the model's rate. Needs the extra ``edgeemo-runtime[files]``
(soundfile, soxr) but for headerless audio at that rate.

Memory is that of a block whatever the length of a call, and what a header promises is not believed: reading goes on to the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeemo_runtime import g711
from edgeemo_runtime.errors import EdgeEmoError, first_line, printable
from edgeemo_runtime.pipe_file import PipeFile
from edgeemo_runtime.rates import MAX_RATE, MIN_RATE

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".aiff", ".au")
# Files without a header, and how they are encoded; a rate where the name says it (Asterisk's do), else --rate.
RAW_SUFFIXES: dict[str, tuple[str, int | None]] = {
    **dict.fromkeys((".pcm", ".raw", ".sln", ".slin", ".sw"), ("s16", None)),
    **dict.fromkeys((".ul", ".ulaw", ".mulaw", ".pcmu", ".mu", ".g711u"), ("mulaw", None)),
    **dict.fromkeys((".al", ".alaw", ".pcma", ".g711a"), ("alaw", None)),
    **{f".{name}{khz}": ("s16", rate) for name in ("sln", "slin") for khz, rate in (
        (8, 8000), (12, 12000), (16, 16000), (24, 24000), (32, 32000), (44, 44100), (48, 48000), (96, 96000), (192, 192000))},
}  # fmt: skip
ENCODINGS = {"s16": 2, "mulaw": 1, "alaw": 1}  # bytes a sample
CHANNELS = ("mix", "left", "right", "both")
MAX_CHANNELS = 32
PROMISING = ("WAV", "WAVEX", "RF64", "AU")  # formats whose header says how much there is, before it is known
BLOCK_S = 0.16  # of a file or stream read at once
FULL_SCALE, SCALED_SCALE = 1.0, 8.0  # of float samples: beyond the first they are clipped, beyond the second in another unit
CANCELLED = 0.05  # of the channels' power: less is left of their mean where they are of opposite phase


class Audio(Protocol):
    """Samples of one call, float32 at the engine's rate, in order."""

    def read(self, count: int) -> np.ndarray:
        """The next ``count`` samples; fewer only at the end, where none is the last answer."""


class ArrayAudio:
    """Samples that are in memory."""

    def __init__(self, samples: np.ndarray) -> None:
        self._samples, self._at = samples, 0

    def read(self, count: int) -> np.ndarray:
        piece = self._samples[self._at : self._at + count]
        self._at += len(piece)
        return piece


class BlockAudio:
    """Samples that come in blocks of any length."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks = blocks
        self._left = np.zeros(0, dtype=np.float32)

    def read(self, count: int) -> np.ndarray:
        while len(self._left) < count and (block := next(self._blocks, None)) is not None:
            self._left = np.concatenate([self._left, block]) if len(self._left) else block
        piece, self._left = self._left[:count], self._left[count:]
        return piece


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


def check_rate(rate: int, name: str) -> None:
    """Raises EdgeEmoError naming ``name`` for a rate that no speech has."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise EdgeEmoError(f"{name}: says {rate} Hz; rates from {MIN_RATE} to {MAX_RATE} are read")


def open_sound(source: Path | Any, name: str) -> Any:
    """A SoundFile that is only read on, never sought in. ``source``: a path, or an object with read, seek and tell.

    Raises EdgeEmoError naming ``name`` if it is missing, not audio, or has a rate or number of channels that no recording has.
    """
    _need_files_extra()
    import soundfile

    class Sequential(soundfile.SoundFile):
        """Without python-soundfile's seeking after each block, which files of unknown length do not allow."""

        def seekable(self) -> bool:
            return False

        owned: int | None = None  # a file that was opened for it

        def close(self) -> None:
            super().close()
            if self.owned is not None:
                os.close(self.owned)
                self.owned = None

    if isinstance(source, Path) and not source.is_file():
        raise EdgeEmoError(f"{name}: no such file")
    try:
        sound = Sequential(str(source) if isinstance(source, Path) else source)
        if isinstance(source, Path) and sound.frames == 0 and sound.format in PROMISING:
            sound.close()
            sound = _promised(Sequential, source)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError, ValueError) as error:
        raise EdgeEmoError(
            f"{name}: not an audio file that libsndfile reads ({first_line(error).rsplit(': ', 1)[-1]})"
        ) from error
    try:
        check_rate(sound.samplerate, name)
        if sound.channels > MAX_CHANNELS:
            raise EdgeEmoError(f"{name}: says {sound.channels} channels; up to {MAX_CHANNELS} are read")
    except BaseException:
        sound.close()
        raise
    return sound


def _promised(kind: Any, path: Path) -> Any:
    """A sound of a file whose header promises nothing, read to the file's end."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sound = kind(PipeFile(handle))
    except BaseException:
        os.close(handle)
        raise
    sound.owned = handle
    return sound


def audio_seconds(path: str | Path) -> float:
    """Length of a file by its header, read through only where the header promises nothing (what was piped says 0 or all ones).
    Raises EdgeEmoError naming it if it is missing or not audio."""
    name = printable(str(path))
    with open_sound(Path(path), name) as sound:
        frames = sound.frames if sound.owned is None else sum(len(block) for block in sound_blocks(sound, name, "mix"))
        return float(frames / sound.samplerate)


def load_audio(path: str | Path, rate: int) -> np.ndarray:
    """Reads WAV, FLAC, OGG (whatever libsndfile reads) at any rate, mono or more, into memory.

    Returns float32 (samples,) in [-1, 1] at ``rate`` Hz; channels are averaged, rates converted by soxr (HQ).
    Raises EdgeEmoError naming the file if it is missing, not audio, empty, or not finite.
    """
    path = Path(path)
    name = printable(str(path))
    with open_sound(path, name) as sound:
        blocks = list(sound_blocks(sound, name, "mix"))
        source_rate = sound.samplerate
    mono = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    check_samples(mono, name)
    if source_rate != rate:
        import soxr

        mono = soxr.resample(mono, source_rate, rate)
    check_samples(mono, name)
    return np.ascontiguousarray(mono, dtype=np.float32)


def sound_blocks(sound: Any, name: str, channel: str, warn: Callable[[str], None] | None = None) -> Iterator[np.ndarray]:
    """The samples of ``sound`` at its own rate, float32 (n,), a block at a time, of ``channel`` or all channels' mean.

    Raises EdgeEmoError naming ``name`` for samples that are not finite or in another unit, a channel that is not there, or a file
    that breaks off.
    """
    import soundfile

    if channel in ("left", "right") and sound.channels < 2:
        raise EdgeEmoError(f"{name}: has one channel; --channel {channel} is for files of two")
    block = np.empty((max(1, round(BLOCK_S * sound.samplerate)), sound.channels), dtype=np.float32)
    mix = _Mix(channel)
    floating = "FLOAT" in sound.subtype or "DOUBLE" in sound.subtype
    position, warned = 0, warn is None
    while True:
        try:
            count = sound.buffer_read_into(block, "float32")
        except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
            raise EdgeEmoError(
                f"{name}: cannot be read beyond {position / sound.samplerate:.2f} s ({first_line(error)})"
            ) from error
        if not count:
            return
        samples = block[:count]
        if not np.isfinite(samples).all():
            first = position + int(np.flatnonzero(~np.isfinite(samples).all(axis=1))[0])
            raise EdgeEmoError(f"{name}: sample {first} is NaN or infinite; write the file again from its source")
        if floating and (peak := float(np.abs(samples).max())) > FULL_SCALE:
            if peak > SCALED_SCALE:
                raise EdgeEmoError(
                    f"{name}: has float samples of {peak:.6g}; full scale is 1.0, so divide by 32768 or what it is"
                )
            if not warned and warn is not None:
                warn(f"{name}: has float samples beyond full scale ({peak:.3g}), which are clipped")
                warned = True
        position += count
        yield mix(samples).clip(-1.0, 1.0) if floating else mix(samples)


class _Mix:
    """Channels to one: (n, channels) to (n,). Their mean, but for channels of opposite phase, whose mean is silence: from where
    that is seen on, the first channel alone."""

    def __init__(self, channel: str) -> None:
        self._column: int | None = {"left": 0, "right": 1}.get(channel)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        if samples.shape[1] == 1:
            return samples[:, 0].copy()
        if self._column is None:
            mean = samples.mean(axis=1)
            power = float(np.square(samples).mean())
            if power < 1e-9 or float(np.square(mean).mean()) >= CANCELLED / samples.shape[1] * power:
                return mean
            self._column = int(np.square(samples).mean(axis=0).argmax())
        return samples[:, self._column].copy()


def resampled(blocks: Iterator[np.ndarray], rate: int, to: int) -> Iterator[np.ndarray]:
    """Blocks at ``to`` Hz; the filter goes on from block to block."""
    resample = stream_resampler(rate, to)
    for block in blocks:
        yield resample(block, False)
    yield resample(np.zeros(0, dtype=np.float32), True)


def decode_raw(data: bytes, encoding: str) -> np.ndarray:
    """Whole samples of headerless mono audio, float32 in [-1, 1]: s16 (little-endian), mulaw or alaw (G.711)."""
    samples = np.frombuffer(data, dtype="<i2") if encoding == "s16" else g711.decode(data, encoding)
    return samples.astype(np.float32) / 32768.0


def raw_blocks(read: Callable[[int], bytes], encoding: str, rate: int) -> Iterator[np.ndarray]:
    """Headerless mono audio as it comes: ``read`` gives up to so many bytes, none at the end."""
    width, left = ENCODINGS[encoding], b""
    while data := read(max(1, int(rate * BLOCK_S)) * width):
        data = left + data
        whole = len(data) // width * width
        left = data[whole:]
        yield decode_raw(data[:whole], encoding)


def open_call(
    path: str | Path, rate: int, raw_rate: int, channel: str = "mix", warn: Callable[[str], None] | None = None
) -> Audio:
    """The audio of a file at ``rate`` Hz: whatever libsndfile reads, or headerless by its suffix (RAW_SUFFIXES) at ``raw_rate``
    Hz where that does not say. Raises EdgeEmoError naming the file, here or while it is read."""
    path = Path(path)
    name = printable(str(path))
    return BlockAudio(_not_empty(_file_blocks(path, name, rate, raw_rate, channel, warn), name))


def _file_blocks(
    path: Path, name: str, rate: int, raw_rate: int, channel: str, warn: Callable[[str], None] | None
) -> Iterator[np.ndarray]:
    encoding, suffix_rate = RAW_SUFFIXES.get(path.suffix.lower(), (None, None))
    if encoding is None:
        with open_sound(path, name) as sound:
            yield from resampled(sound_blocks(sound, name, channel, warn), sound.samplerate, rate)
        return
    if channel in ("left", "right"):
        raise EdgeEmoError(f"{name}: has one channel; --channel {channel} is for files of two")
    try:
        with path.open("rb") as file:
            source_rate = suffix_rate or raw_rate
            yield from resampled(raw_blocks(file.read, encoding, source_rate), source_rate, rate)
    except OSError as error:
        raise EdgeEmoError(f"{name}: cannot be read ({error.strerror})") from error


def _not_empty(blocks: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    heard = False
    for block in blocks:
        heard = heard or block.size > 0
        yield block
    if not heard:
        raise EdgeEmoError(f"{name}: holds no samples; give a clip with audio in it")


def stream_resampler(rate: int, to: int) -> Callable[[np.ndarray, bool], np.ndarray]:
    """A function (samples float32, last) -> samples at ``to`` Hz that carries its filter from chunk to chunk."""
    if rate == to:
        return lambda samples, last: samples
    _need_files_extra()
    import soxr

    stream = soxr.ResampleStream(rate, to, 1, dtype="float32")
    return lambda samples, last: stream.resample_chunk(samples, last=last)
