"""Audio on a pipe: raw as it comes, or WAV, AU or FLAC by what it begins with, whose header then counts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from edgeemo_runtime.audio import open_sound, raw_blocks, resampled, sound_blocks
from edgeemo_runtime.errors import EdgeEmoError

# What a stream begins with, and what that is called. Of the others' headers a part lies at their end.
READ = {b"RIFF": "WAV", b"RIFX": "WAV", b"RF64": "WAV", b".snd": "AU", b"fLaC": "FLAC"}
NOT_READ = {b"OggS": "Ogg", b"FORM": "AIFF", b"caff": "CAF", b"ID3\x03": "MP3", b"ID3\x04": "MP3"}
MARK = 4  # bytes
HEADER_KEPT = 1 << 20  # bytes in which a reader may go back: headers lie there
LONGEST = 1 << 50  # bytes that the stream is said to have


class PipeFile:
    """A pipe as a file for libsndfile: one may go back within its first bytes, and whoever jumps ahead finds nothing there.

    A WAV or AU header that promises no audio, as a program that could not go back to it wrote, promises it until the end.
    """

    def __init__(self, descriptor: int, begun: bytes) -> None:
        self._descriptor = descriptor
        self._kept, self._first, self._at = bytearray(begun), 0, 0
        if begun[:4] == b".snd" and self._fill(12) and self._kept[8:12] == bytes(4):
            self._kept[8:12] = b"\xff" * 4
        if begun[:4] in (b"RIFF", b"RF64"):
            self._promise_wav()

    def _promise_wav(self) -> None:
        at = 12
        while self._fill(at + 8):
            size = int.from_bytes(self._kept[at + 4 : at + 8], "little")
            if self._kept[at : at + 4] == b"data":
                if size == 0:
                    self._kept[at + 4 : at + 8] = self._kept[4:8] = b"\xff" * 4
                return
            if size > HEADER_KEPT // 2:
                return
            at += 8 + size + size % 2

    def _fill(self, end: int) -> bool:
        """Reads up to ``end``, counted from the stream's first byte. False if it ends before."""
        while self._first + len(self._kept) < end:
            data = os.read(self._descriptor, end - self._first - len(self._kept))
            if not data:
                return False
            self._kept += data
        return True

    def read(self, count: int = -1) -> bytes:
        end = self._first + len(self._kept)
        if not self._first <= self._at <= end or count < 0:
            return b""
        self._fill(self._at + count)
        piece = bytes(self._kept[self._at - self._first : self._at - self._first + count])
        self._at += len(piece)
        if self._at > 2 * HEADER_KEPT and len(self._kept) > HEADER_KEPT:
            spent = self._at - self._first
            del self._kept[:spent]
            self._first += spent
        return piece

    def readinto(self, buffer: memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: LONGEST}[whence]
        return self._at

    def tell(self) -> int:
        return self._at


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
