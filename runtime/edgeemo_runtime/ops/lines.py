"""Lines to a pipe, terminal or file that whoever reads them may leave full: a live process writes what there is room for at once,
keeps a little, and counts what it has to leave out."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any

ROOM = select.PIPE_BUF  # bytes that a pipe takes without waiting where it says that it takes any
KEPT = 1 << 20  # bytes that wait for a slow reader


class LineWriter:
    """Writes whole lines to a file descriptor and never waits for it. ``lost`` counts lines that found no room."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._waiting = bytearray()
        self.lost = 0
        self.gone = False  # the last attempt failed: nobody reads it any more, or the disk is full

    def write(self, line: str) -> None:
        data = line.encode(errors="backslashreplace") + b"\n"
        if len(self._waiting) + len(data) > KEPT:
            self.lost += 1
        else:
            self._waiting += data
        self.flush()

    def flush(self) -> None:
        """Writes what the other end takes now."""
        try:
            while self._waiting and select.select([], [self.descriptor], [], 0)[1]:
                del self._waiting[: os.write(self.descriptor, self._waiting[:ROOM])]
                self.gone = False
        except BlockingIOError:
            return
        except (OSError, ValueError):  # nothing of it may end a call
            self.lost += self._waiting.count(b"\n")
            self._waiting.clear()
            self.gone = True

    def finish(self) -> None:
        """Waits until all is written, or nobody takes it."""
        while self._waiting:
            select.select([], [self.descriptor], [])
            self.flush()


def _descriptor(stream: Any) -> int | None:
    """A standard stream's; None where it is closed, or there is none."""
    try:
        found: int = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None
    return found


def say(line: str) -> None:
    """A line on stdout. Where nobody reads it, or the disk behind it is full, it is left out."""
    descriptor = _descriptor(sys.stdout)
    if descriptor is not None:
        LineWriter(descriptor).write(line)


_logs: LineWriter | None = None


def log(event: str, **what: Any) -> None:
    """One JSON object and line on stderr. What cannot be written is left out: a log stops nothing."""
    global _logs
    descriptor = _descriptor(sys.stderr)
    if descriptor is None:
        return
    if _logs is None or _logs.descriptor != descriptor:
        _logs = LineWriter(descriptor)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
    _logs.write(json.dumps({"time": stamp, "event": event, **what}))
