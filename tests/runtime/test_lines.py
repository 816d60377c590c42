"""Lines to whoever reads them, slowly or not at all: nothing waits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from edgeemo_runtime.ops.lines import KEPT, LineWriter


def test_a_full_pipe_is_not_waited_for_and_its_lines_are_counted() -> None:
    reader, writer = os.pipe()
    lines = LineWriter(writer)
    for i in range(40_000):
        lines.write(f"{i:060d}")
    assert lines.lost > 0
    got = b""
    os.set_blocking(reader, False)
    for _ in range(10_000):
        lines.flush()
        try:
            got += os.read(reader, 1 << 16)
        except BlockingIOError:
            break
    found = got.decode().splitlines()
    assert all(len(line) == 60 for line in found)  # whole lines, none cut by another
    assert len(found) == 40_000 - lines.lost
    assert len(got) <= KEPT + (1 << 17)
    os.close(reader)
    os.close(writer)


def test_a_reader_who_goes_away_is_noticed_and_harms_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    lines = LineWriter(writer)
    lines.write("a")
    assert lines.gone and lines.lost == 1
    os.close(writer)
    lines.write("b")
    assert lines.lost == 2


def test_a_full_disk_comes_back() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        lines = LineWriter(full.fileno())
        lines.write("a")
        assert lines.gone


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_a_log_that_cannot_be_written_stops_nothing(where: str) -> None:
    code = "from edgeemo_runtime.ops.lines import log; log('x', a='\\ud800'); log('y'); print('on')"
    done = subprocess.run(f'{sys.executable} -c "{code}" {where}', shell=True, capture_output=True, check=False)
    assert done.stdout.strip() == b"on"
