"""Runs targets in forked children, a batch at a time: `python -m tests.fuzz.run ARTIFACT [--inputs N] [TARGET...]`.

An input is a target's name and a number. A target may raise EdgeEmoError; anything else is a traceback, told by its place, and a
child that dies is a signal. Both are found again by their number: `--input N` runs one alone.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from edgeemo_runtime.errors import EdgeEmoError

import tests.fuzz.live_targets
import tests.fuzz.onnx_targets  # noqa: F401 - both add their targets
from tests.fuzz.targets import TARGETS, Target

BATCH = 500
LIMIT_S = 30  # for one input
MEMORY = 6 << 30


class Found:
    """Outcome of a target's inputs."""

    def __init__(self) -> None:
        self.inputs = self.refused = 0
        self.tracebacks: Counter[str] = Counter()
        self.signals: Counter[str] = Counter()
        self.examples: dict[str, int] = {}

    def add(self, what: str, number: int, counter: Counter[str]) -> None:
        counter[what] += 1
        self.examples.setdefault(what, number)


def once(target: Target, number: int) -> str:
    """ "ok", "refused", or the place of a traceback."""
    try:
        target.run(number)
    except EdgeEmoError as error:
        return "refused" if "\n" not in str(error) else f"a message of several lines: {str(error)[:80]!r}"
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "edgeemo" in f.filename] or traceback.extract_tb(
            error.__traceback__
        )
        return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
    return "ok"


def batch(target: Target, numbers: range, found: Found) -> None:
    """Runs inputs in a child; what kills it is one input's doing, and the others go on behind it."""
    done = mmap.mmap(-1, 8)
    start = numbers.start
    while start < numbers.stop:
        done[:8] = start.to_bytes(8, "little")
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            _child(target, range(start, numbers.stop), done, writer)
        os.close(writer)
        with open(reader, "rb") as file:
            rows = file.read().decode().splitlines()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for row in rows:
            number, what = json.loads(row)
            if what == "refused":
                found.refused += 1
            else:
                found.add(what, number, found.tracebacks)
        last = int.from_bytes(done[:8], "little")
        if status < 0:
            found.add(signal.Signals(-status).name, last, found.signals)
        elif status:
            found.add(f"exit {status}", last, found.signals)
        end = last + 1 if status else numbers.stop
        found.inputs += end - start
        start = end


def _child(target: Target, numbers: range, done: mmap.mmap, writer: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    with open(writer, "w") as file:
        for number in numbers:
            done[:8] = number.to_bytes(8, "little")
            signal.alarm(LIMIT_S)
            what = once(target, number)
            if what != "ok":
                file.write(json.dumps([number, what]) + "\n")
    os._exit(0)


def fuzz(name: str, inputs: int, first: int = 0) -> Found:
    found = Found()
    for at in range(first, first + inputs, BATCH):
        batch(TARGETS[name], range(at, min(at + BATCH, first + inputs)), found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="of each target's usual number of inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--input", type=int, help="one input alone, with its traceback")
    parser.add_argument("--out", type=Path, help="JSON of the table")
    arguments = parser.parse_args()
    names = arguments.targets or list(TARGETS)
    if arguments.input is not None:
        TARGETS[names[0]].run(arguments.input)
        return
    rows, bad = {}, 0
    print(f"{'target':14} {'seconds':>8} {'inputs':>9} {'refused':>9} {'tracebacks':>10} {'signals':>8}", flush=True)
    for name in names:
        began = time.monotonic()
        found = fuzz(name, max(1, int(TARGETS[name].inputs * arguments.share)), arguments.first)
        tracebacks, signals = found.tracebacks.total(), found.signals.total()
        bad += tracebacks + signals
        seconds = time.monotonic() - began
        print(f"{name:14} {seconds:8.0f} {found.inputs:9,} {found.refused:9,} {tracebacks:10,} {signals:8,}", flush=True)
        for what, number in found.examples.items():
            print(f"    {what} (input {number})", flush=True)
        rows[name] = {"seconds": round(seconds), **vars(found)}
    print(f"{'all':14} {'':8} {sum(r['inputs'] for r in rows.values()):9,}", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
