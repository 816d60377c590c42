"""Work in a process of its own: native code (TVM, LLVM, ONNX Runtime, onnx) runs on files that nobody here wrote.

What crashes there is an error here, and Ctrl-C ends at once what would not look at signals for a minute. The child is forked, so
it starts in milliseconds with all modules loaded; its temporary files go with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from edgeemo_runtime.errors import EdgeEmoError

T = TypeVar("T")
SAID = "stderr"  # in the child's folder: what native code writes, which is shown where it crashes only


class Job(Generic[T]):
    """One call of ``function`` in a child process, begun at once; a context manager that kills the child if it is left early.

    ``what``: of messages, the file and what is done with it.
    """

    def __init__(self, what: str, function: Callable[..., T], *args: Any) -> None:
        self._what = what
        self._folder = tempfile.TemporaryDirectory(prefix="edgeemo-")
        context = multiprocessing.get_context("fork")
        self._answer, end = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(end, what, self._folder.name, function, args), daemon=True)
        self._process.start()
        end.close()
        self._received: tuple[bool, Any, str | None] | None = None

    def result(self) -> T:
        """Waits. Raises what the function raised if that is an EdgeEmoError, and an EdgeEmoError for anything else: another type
        of error, or a crash."""
        try:
            self._received = self._received or self._answer.recv()
        except EOFError:
            self._process.join()
            raise EdgeEmoError(
                f"{self._what}: native code crashed ({self._how_it_ended()}); if neither memory nor disk is full, report it"
            ) from None
        fine, value, trace = self._received
        if not fine:
            raise EdgeEmoError(value) from (RuntimeError(trace) if trace else None)
        return value

    def _how_it_ended(self) -> str:
        code = self._process.exitcode or 0
        said = [s for s in Path(self._folder.name, SAID).read_text(errors="replace").splitlines() if "ERROR" in s]
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{how}: {said[-1][:200]}" if said else how

    def __enter__(self) -> Job[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.join()
        self._answer.close()
        self._folder.cleanup()


def isolated(what: str, function: Callable[..., T], *args: Any) -> T:
    """``function(*args)`` in a child process. Raises EdgeEmoError, as ``Job.result`` does."""
    with Job(what, function, *args) as job:
        return job.result()


def _work(answer: Connection, what: str, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to both; the parent decides
    tempfile.tempdir = folder
    said = os.open(Path(folder, SAID), os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    try:
        answer.send((True, function(*args), None))
    except EdgeEmoError as error:
        answer.send((False, str(error), None))
    except Exception as error:  # native libraries raise types of their own
        first = (str(error).strip() or "no message").splitlines()[0][:200]
        answer.send((False, f"{what}: {type(error).__name__}: {first} (unforeseen: report it)", traceback.format_exc()))
