"""A stream of bytes as a file for libsndfile, which wants to go back and forth in a header."""

from __future__ import annotations

import os

HEADER_KEPT = 1 << 20  # bytes in which a reader may go back: headers lie there
LONGEST = 1 << 50  # bytes that the stream is said to have


class PipeFile:
    """A pipe as a file for libsndfile: one may go back within its first bytes, and whoever jumps ahead finds nothing there.

    A WAV or AU header that promises no audio, as a program that could not go back to it wrote, promises it until the end.
    """

    def __init__(self, descriptor: int, begun: bytes = b"") -> None:
        self._descriptor = descriptor
        self._kept, self._first, self._at = bytearray(begun), 0, 0
        self._fill(4)
        begun = bytes(self._kept[:4])
        if begun == b".snd" and self._fill(12) and self._kept[8:12] == bytes(4):
            self._kept[8:12] = b"\xff" * 4
        if begun in (b"RIFF", b"RF64"):
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
