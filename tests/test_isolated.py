from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.isolated import Job, isolated


def test_a_result_comes_back_and_temporary_files_go() -> None:
    folder = isolated("m", lambda: str(Path(tempfile.mkdtemp())))
    assert not Path(folder).exists()


def test_errors_crashes_and_what_is_unforeseen_are_one_line() -> None:
    def refuse() -> None:
        raise EdgeEmoError("m.onnx: node n: no")

    def fail() -> None:
        raise KeyError("k\nsecond line")

    with pytest.raises(EdgeEmoError, match=r"^m.onnx: node n: no$"):
        isolated("m.onnx: compiling", refuse)
    with pytest.raises(EdgeEmoError, match=r"^m.onnx: compiling: KeyError: .*unforeseen: report it\)$"):
        isolated("m.onnx: compiling", fail)
    with pytest.raises(EdgeEmoError, match=r"^m.onnx: compiling: native code crashed \(SIGKILL\)"):
        isolated("m.onnx: compiling", lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_job_that_is_left_is_ended() -> None:
    with Job("m", lambda: time.sleep(1000)) as job:
        pid = job._process.pid
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
