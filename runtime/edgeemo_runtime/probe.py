"""Runs an artifact's code for the first time in a child process: code that crashes or hangs takes only the child with it.

The child is a fork, so it checks and runs the very bytes that this process then loads, and costs a live process one or two
milliseconds.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import resource
import select
import signal
import time
from typing import NoReturn

from edgeemo_runtime import process
from edgeemo_runtime.artifact import Artifact, check_members, unchecked
from edgeemo_runtime.errors import EdgeEmoError, first_line
from edgeemo_runtime.members import Members
from edgeemo_runtime.trust import ANYONE, Trust

LIMIT_S = 20.0  # of processor time: a busy machine is no fault of the code
PATIENCE = 10  # times that in all, for code that waits
GENTLE = 10  # the child's niceness next to calls
SOUND = "sound"  # what the child says where nothing is wrong: code that ends it early cannot
MAX_REASON = 2000  # bytes of what the child says


class Probe:
    """A child that checks ``members`` and runs a step of them. For processes of one thread. ``nice``: how much it gives way to
    others, as one next to running calls does."""

    def __init__(self, members: Members, trust: Trust = ANYONE, limit_s: float = LIMIT_S, nice: int = 0) -> None:
        import tvm_ffi  # noqa: F401 - once, here: the child would import it for itself, and this process again

        self.members = members
        self._limit_s = limit_s
        self._ends = time.monotonic() + PATIENCE * limit_s
        self._said, self._ended, self._code = b"", False, 0  # what came from the child, whether that is all, its exit code
        _collect_dying()
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        self._child = os.fork()
        if not self._child:
            _run_child(members, trust, writer, limit_s, nice)
        os.close(writer)

    def poll(self, wait_s: float = 0.0) -> Artifact | None:
        """The artifact once the child has found it sound, None while it runs. Raises EdgeEmoError saying what is wrong. Never
        waits longer than ``wait_s``: a child that gives way to everybody may take its time to end, too."""
        if not self._ended and select.select([self._reader], [], [], wait_s)[0]:
            said = os.read(self._reader, MAX_REASON)
            self._said = (self._said + said)[:MAX_REASON]
            self._ended = not said
        if not self._ended or not self._reap():
            if time.monotonic() > self._ends:
                self.close()
                raise self._too_long()
            return None
        reason, code = self._said.decode(errors="replace"), self._code
        if reason == SOUND and not code:
            return unchecked(self.members)
        if code == -signal.SIGXCPU:
            raise self._too_long()
        if code < 0:
            name = signal.Signals(-code).name
            raise EdgeEmoError(f"{self.members.path}: its code crashed when it was tried ({name}); compile it again")
        raise EdgeEmoError(reason or f"{self.members.path}: its code ended the process that tried it (exit code {code})")

    def _too_long(self) -> EdgeEmoError:
        return EdgeEmoError(f"{self.members.path}: its code did not answer within {self._limit_s:.0f} s; compile it again")

    def wait(self) -> Artifact:
        """As poll, but waits for the child."""
        try:
            while True:
                if (artifact := self.poll(max(0.0, self._ends - time.monotonic()))) is not None:
                    return artifact
                if self._ended:
                    time.sleep(0.001)
        finally:
            self.close()

    def close(self) -> None:
        """Ends the child if it runs; what is left of it is collected later."""
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            _dying.add(self._child)
            self._child = 0
            os.close(self._reader)
        _collect_dying()

    def _reap(self) -> bool:
        """Whether the child is gone; its exit code is known then."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid:
            return False
        self._code = os.waitstatus_to_exitcode(status)
        self._child = 0
        os.close(self._reader)
        return True


_dying: set[int] = set()  # children that were killed and not yet waited for


def _collect_dying() -> None:
    for pid in list(_dying):
        with contextlib.suppress(ChildProcessError):
            if not os.waitpid(pid, os.WNOHANG)[0]:
                continue
        _dying.discard(pid)


def probed(members: Members, trust: Trust = ANYONE) -> Artifact:
    """The artifact of ``members``, every check passed and its code tried in a child. Raises EdgeEmoError."""
    return Probe(members, trust).wait()


def exercise(artifact: Artifact) -> None:
    """A step of the artifact's code on silence. Raises EdgeEmoError if its answer makes no sense."""
    from edgeemo_runtime.engine import Engine
    from edgeemo_runtime.function import Function

    if artifact.manifest["stream"] is None:
        Function(artifact).warm_up()
    else:
        Engine(artifact, 1)


def _run_child(members: Members, trust: Trust, writer: int, limit_s: float, nice: int) -> NoReturn:
    """Body of the child process. It writes what is wrong, or SOUND, and never returns to what its parent was doing."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used_s = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used_s + limit_s), math.ceil(used_s + limit_s) + 1))
        faulthandler.disable()
        process.reset_scheduling()
        os.nice(nice)
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):  # what foreign code prints when it dies is no message of ours
            os.dup2(nothing, standard)
        process.with_openssl()
        try:
            exercise(check_members(members, trust))
            os.write(writer, SOUND.encode())
            code = 0
        except EdgeEmoError as error:
            os.write(writer, str(error).encode()[:MAX_REASON])
        except BaseException as error:
            os.write(writer, f"{members.path}: cannot be run ({first_line(error)})".encode()[:MAX_REASON])
    finally:
        os._exit(code)
