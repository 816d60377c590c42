"""edgeemo-run: an artifact and calls in, emotions out. argparse, so that a board needs nothing more than the engine does."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeemo_runtime.audio import load_audio, stream_resampler
from edgeemo_runtime.engine import Engine, Result, Stream
from edgeemo_runtime.errors import EdgeEmoError

CHUNK_S = 0.5  # of stdin read at once


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgeemo-run", description="Emotion of calls, every 160 ms, from a compiled artifact.")
    parser.add_argument("artifact", type=Path, help="file written by `edgeemo compile` for this machine")
    parser.add_argument("audio", nargs="+", help="audio files (any rate, mono or stereo), or - for raw 16-bit PCM on stdin")
    parser.add_argument("--rate", type=int, default=8000, help="sample rate of stdin, Hz (default 8000)")
    parser.add_argument("--alpha", type=float, default=0.3, help="weight of the newest step in the average (default 0.3)")
    parser.add_argument("--streams", type=int, default=16, help="calls run side by side (default 16)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object per result and line")
    output.add_argument("--summary", action="store_true", help="only the table at the end")
    return parser


class _Summary:
    """Per call: steps and the sum of their probabilities; the clip's answer is the mean."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.rows: dict[str, tuple[int, np.ndarray]] = {}

    def add(self, name: str, probabilities: np.ndarray) -> None:
        steps, total = self.rows.get(name, (0, np.zeros(len(self.labels))))
        self.rows[name] = steps + 1, total + probabilities

    def print(self, step_s: float) -> None:
        width = max([4, *(len(n) for n in self.rows)])
        print(f"{'call':{width}}  seconds  {'emotion':8}  mean p")
        for name, (steps, total) in self.rows.items():
            mean = total / steps
            best = int(mean.argmax())
            print(f"{name:{width}}  {steps * step_s:7.2f}  {self.labels[best]:8}  {mean[best]:6.3f}")


def _print_result(name: str, result: Result, labels: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        probabilities = {n: round(float(p), 6) for n, p in zip(labels, result.probabilities, strict=True)}
        smoothed = {n: round(float(p), 6) for n, p in zip(labels, result.smoothed, strict=True)}
        line = {"call": name, "start_s": result.start_s, "end_s": result.end_s, "label": result.label}
        print(json.dumps({**line, "probabilities": probabilities, "smoothed": smoothed}), flush=True)
    else:
        best = int(result.smoothed.argmax())
        print(f"{name}  {result.start_s:7.2f}-{result.end_s:7.2f} s  {result.label:8}  {result.smoothed[best]:.3f}", flush=True)


def _run_files(engine: Engine, files: list[str]) -> Iterator[tuple[str, Result]]:
    for first in range(0, len(files), engine.max_streams):
        names: dict[int, str] = {}
        streams: list[Stream] = []
        for file in files[first : first + engine.max_streams]:
            stream = engine.open()
            stream.push(load_audio(file, engine.sample_rate))
            stream.finish()
            names[stream.id] = file
            streams.append(stream)
        while len(results := engine.step()):
            for result in results:
                yield names[result.stream], result
        for stream in streams:
            stream.close()


def _run_stdin(engine: Engine, rate: int) -> Iterator[tuple[str, Result]]:
    resample = stream_resampler(rate, engine.sample_rate)
    size = int(rate * CHUNK_S) * 2
    with engine.open() as stream:
        left, heard, last = b"", 0, False
        stdin = sys.stdin.fileno()  # unbuffered: a live call is answered as its audio comes
        while not last:
            data = os.read(stdin, size)
            last = not data
            data = left + data
            whole = len(data) // 2 * 2
            left = data[whole:]
            samples = np.frombuffer(data[:whole], dtype="<i2").astype(np.float32) / 32768.0
            heard += len(samples)
            stream.push(resample(samples, last))
            if last and heard:
                stream.finish()
            while len(results := engine.step()):
                for result in results:
                    yield "-", result
        if not heard:
            raise EdgeEmoError("-: no audio on stdin; pipe raw little-endian 16-bit mono PCM into it")


def run(arguments: argparse.Namespace) -> None:
    if "-" in arguments.audio and len(arguments.audio) > 1:
        raise EdgeEmoError("- reads one call from stdin; give it alone, or files")
    engine = Engine(arguments.artifact, max_streams=min(arguments.streams, max(1, len(arguments.audio))), alpha=arguments.alpha)
    summary = _Summary(engine.labels)
    stdin = arguments.audio == ["-"]
    for name, result in _run_stdin(engine, arguments.rate) if stdin else _run_files(engine, arguments.audio):
        summary.add(name, result.probabilities)
        if not arguments.summary:
            _print_result(name, result, engine.labels, arguments.json)
    if not arguments.json:
        summary.print(engine.samples_per_step / engine.sample_rate)


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.rate < 1 or arguments.streams < 1:
        _parser().error("--rate and --streams must be at least 1")
    try:
        run(arguments)
    except EdgeEmoError as error:
        print(f"edgeemo-run: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
