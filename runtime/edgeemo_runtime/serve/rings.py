"""Audio of all calls in shared memory: the front process writes packets as they come, an engine process reads whole hops.

One region for all engines: a call that moves to another engine, because its own died, is only told where to begin to read. No
Python object passes per packet: the front copies bytes and publishes a position. Positions count bytes since a call began and
never wrap; a place in a ring is their remainder.

Where audio is missing in between, a mark says at which count of samples the source goes on (docs/live-calls.md, RTP).
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from dataclasses import dataclass

import numpy as np

from edgeemo_runtime.memory import ALIGNMENT
from edgeemo_runtime.serve.formats import Format

SLOT_BYTES = 1 << 18  # of a call's ring; only pages that its format needs are ever touched
RING_S = 8.0  # of audio in a ring, where that is not more than SLOT_BYTES
GRANULE_S = 0.01  # for each of these it is known when it came
TIMES = 1024  # granules
MARKS = 256  # jumps of a source's count that are remembered


@dataclass(frozen=True)
class Layout:
    """Layout of the shared region, by the number of slots."""

    slots: int

    def offsets(self) -> dict[str, int]:
        sizes = {
            "written": 8 * self.slots, "read": 8 * self.slots, "ended": 8 * self.slots, "marked": 8 * self.slots,
            "marks": 16 * MARKS * self.slots, "times": 8 * TIMES * self.slots, "data": SLOT_BYTES * self.slots,
        }  # fmt: skip
        found, at = {}, 0
        for name, size in sizes.items():
            found[name] = at
            at += -(-size // ALIGNMENT) * ALIGNMENT
        return found | {"end": -(-at // mmap.PAGESIZE) * mmap.PAGESIZE}


def ring_bytes(form: Format) -> int:
    """Bytes of a ring that holds ``form``: whole seconds of it where they fit, whole samples always."""
    return min(int(RING_S * form.rate), SLOT_BYTES // form.width) * form.width


def granule_bytes(form: Format) -> int:
    return max(1, int(form.rate * GRANULE_S)) * form.width


def make_region(slots: int) -> int:
    """A memory file for ``slots`` calls; its descriptor is what other processes inherit."""
    handle = os.memfd_create("edgeemo-audio", os.MFD_CLOEXEC)
    os.ftruncate(handle, Layout(slots).offsets()["end"])
    return handle


class _Fence:
    """Orders memory between processes: what was written before ``__call__`` is seen by whoever sees what is written after it.

    AArch64 may make two stores visible in either order. Python has no fence; a lock taken and let go twice is one, since an
    acquire may not pass the release before it (Arm ARM B2.3, load-acquire after store-release).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            pass
        with self._lock:
            pass


class AudioWriter:
    """The front's side of the region."""

    def __init__(self, handle: int, slots: int) -> None:
        self.slots = slots
        offsets = Layout(slots).offsets()
        self._map = mmap.mmap(handle, offsets["end"])
        view = memoryview(self._map)

        def words(name: str, count: int) -> memoryview:
            return view[offsets[name] : offsets[name] + 8 * count]

        self.written, self.read, self.ended, self.marked = (
            words(name, slots).cast("Q") for name in ("written", "read", "ended", "marked")
        )
        self.marks = words("marks", 2 * MARKS * slots).cast("Q")
        self.times: memoryview[float] = words("times", TIMES * slots).cast("d")
        self.data = view[offsets["data"] : offsets["data"] + SLOT_BYTES * slots]
        self.fence = _Fence()


class SlotWriter:
    """One call's channel, written packet by packet."""

    def __init__(self, writer: AudioWriter, slot: int, form: Format) -> None:
        self._all, self.slot, self.form = writer, slot, form
        self.capacity, self._granule = ring_bytes(form), granule_bytes(form)
        start = slot * SLOT_BYTES
        self._data = writer.data[start : start + self.capacity]
        self._times = writer.times[slot * TIMES : (slot + 1) * TIMES]
        self.position = 0
        self._left = b""  # part of a sample
        writer.written[slot] = writer.read[slot] = writer.ended[slot] = writer.marked[slot] = 0

    def write(self, data: bytes, now: float | None = None) -> None:
        """Appends bytes that came ``now`` (monotonic). What lies more than a ring before them is written over."""
        if self._left or len(data) % self.form.width:
            data = self._left + data
            whole = len(data) // self.form.width * self.form.width
            self._left, data = data[whole:], data[:whole]
        size, at = len(data), self.position % self.capacity
        if size > self.capacity:
            raise ValueError(f"{size} bytes are more than a ring of {self.capacity}")
        first = min(size, self.capacity - at)
        self._data[at : at + first] = data[:first]
        if first < size:
            self._data[: size - first] = data[first:]
        end = self.position + size
        came = time.monotonic() if now is None else now
        granules = range(self.position // self._granule, end // self._granule)
        for granule in granules[-TIMES:]:
            self._times[granule % TIMES] = came
        self.position = end
        self._all.fence()
        self._all.written[self.slot] = end

    def mark(self, count: int) -> bool:
        """Notes that what is written next is sample ``count`` of the source. False where too many marks wait, and nothing is
        noted."""
        marked = self._all.marked[self.slot]
        oldest = 2 * (self.slot * MARKS + marked % MARKS)
        if marked >= MARKS and self._all.marks[oldest] > self._all.read[self.slot]:
            return False
        self._all.marks[oldest], self._all.marks[oldest + 1] = self.position, count
        self._all.fence()
        self._all.marked[self.slot] = marked + 1
        return True

    def room(self) -> int:
        """Bytes that may be written before audio is lost that no engine has read; a quarter of the ring is kept for replay."""
        return self.capacity * 3 // 4 - (self.position - self._all.read[self.slot])

    def end(self) -> None:
        """Nothing follows."""
        self._all.fence()
        self._all.ended[self.slot] = 1


class AudioReader:
    """An engine's side of the region."""

    def __init__(self, handle: int, slots: int) -> None:
        offsets = Layout(slots).offsets()
        self._map = mmap.mmap(handle, offsets["end"])

        def array(name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
            return np.ndarray(shape, dtype=kind, buffer=self._map, offset=offsets[name])

        self.written, self.read, self.ended, self.marked = (
            array(name, (slots,), np.uint64) for name in ("written", "read", "ended", "marked")
        )
        self.marks = array("marks", (slots, MARKS, 2), np.uint64)
        self.times = array("times", (slots, TIMES), np.float64)
        self.data = array("data", (slots, SLOT_BYTES), np.uint8)
        self.fence = _Fence()


class SlotReader:
    """One call's channel, from byte ``position`` on."""

    def __init__(self, reader: AudioReader, slot: int, form: Format, position: int = 0) -> None:
        self._all, self.slot, self.form = reader, slot, form
        self.capacity, self._granule = ring_bytes(form), granule_bytes(form)
        self.position = position
        self.base = 0, 0  # the mark that counts: its byte, and that sample's count
        self._mark = 0  # the next one
        self.lost = 0  # bytes written over before they were read
        self._pass_marks()

    def _pass_marks(self) -> None:
        """The mark that counts at ``position`` becomes the current one."""
        marked = int(self._all.marked[self.slot])
        self._mark = max(self._mark, marked - MARKS)
        while self._mark < marked:
            at, count = (int(v) for v in self._all.marks[self.slot, self._mark % MARKS])
            if at > self.position:
                break
            self.base = at, count
            self._mark += 1

    def _next_mark(self) -> int | None:
        """Offset of the next mark."""
        if self._mark < int(self._all.marked[self.slot]):
            return int(self._all.marks[self.slot, self._mark % MARKS, 0])
        return None

    def available(self) -> int:
        """Bytes that may be read. What was written over is left out, and counted in ``lost``."""
        written = int(self._all.written[self.slot])
        if written - self.position > self.capacity:
            # Half a ring further on: what is being written now may lie where the oldest was.
            skip_to = written - self.capacity // 2 // self.form.width * self.form.width
            self.lost += skip_to - self.position
            self.position = skip_to
            self._pass_marks()
        return written - self.position

    def ended(self) -> bool:
        return bool(self._all.ended[self.slot])

    def take(self, most: int) -> tuple[bytes, int, float]:
        """Up to ``most`` bytes and not beyond a mark; the count of their first sample; when the last of them came. Call
        ``available`` before."""
        self._all.fence()
        self._pass_marks()
        size = min(most, int(self._all.written[self.slot]) - self.position)
        if (mark := self._next_mark()) is not None:
            size = min(size, mark - self.position)
        at = self.position % self.capacity
        row = self._all.data[self.slot]
        data = row[at : min(at + size, self.capacity)].tobytes()
        if len(data) < size:
            data += row[: size - len(data)].tobytes()
        count = self.base[1] + (self.position - self.base[0]) // self.form.width
        self.position += size
        last = max(0, (self.position + self._granule - 1) // self._granule - 1)
        came = float(self._all.times[self.slot, last % TIMES])
        if self.position % self._granule and last >= int(self._all.written[self.slot]) // self._granule:
            came = time.monotonic()  # its granule is not whole yet
        self._all.read[self.slot] = self.position
        return data, count, came
