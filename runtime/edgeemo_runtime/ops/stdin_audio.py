"""Audio on a pipe: raw as it comes, or WAV, AU or FLAC by what it begins with, whose header then counts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from edgeemo_runtime.audio import open_sound, raw_blocks, resampled, sound_blocks
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.pipe_file import PipeFile

# What a stream begins with, and what that is called. Of the others' headers a part lies at their end.
READ = {b"RIFF": "WAV", b"RIFX": "WAV", b"RF64": "WAV", b".snd": "AU", b"fLaC": "FLAC"}
NOT_READ = {b"OggS": "Ogg", b"FORM": "AIFF", b"caff": "CAF", b"ID3\x03": "MP3", b"ID3\x04": "MP3"}
MARK = 4  # bytes


def pipe_blocks(descriptor: int, rate: int, encoding: str, to: int, channel: str = "mix") -> Iterator[np.ndarray]:
    """Blocks at ``to`` Hz of what comes through a pipe: as its own header says, else raw as ``rate`` and ``encoding`` say.

    Raises EdgeEmoError for what has a header that cannot be read in passing.
    """
    begun = b""
    while len(begun) < MARK and (data := os.read(descriptor, MARK - len(begun))):
        begun += data
    if kind := NOT_READ.get(begun):
        raise EdgeEmoError(
            f"-: this is {kind}, which cannot be read from a pipe; give the file's name, or WAV, AU, FLAC or raw audio"
        )
    if begun in READ:
        with open_sound(PipeFile(descriptor, begun), f"- ({READ[begun]})") as sound:
            yield from resampled(sound_blocks(sound, f"- ({READ[begun]})", channel), sound.samplerate, to)
        return

    def read(count: int) -> bytes:
        nonlocal begun
        given, begun = begun, b""
        return given or os.read(descriptor, count)

    yield from resampled(raw_blocks(read, encoding, rate), rate, to)
