"""edgeemo-run: an artifact and calls in, emotions out. argparse, so that a board needs nothing more than the engine does."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeemo_runtime import commands, single_core, store
from edgeemo_runtime.audio import ENCODINGS, decode_raw, load_call, stream_resampler
from edgeemo_runtime.config import Config, load_config
from edgeemo_runtime.decision import PRESETS
from edgeemo_runtime.engine import Engine, Stream
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.live import Call, LiveLoop
from edgeemo_runtime.operate import Operator, log
from edgeemo_runtime.results import Result
from edgeemo_runtime.schedule import Scheduler

CHUNK_S = 0.16  # of stdin read at once

_EPILOG = """other commands, each with --help:
  install, rollback, list   models on a board: DIR/cosyVoice-v<date>/, the current one by a link
  bench                     many calls through one engine: percentiles, memory, misses
  top                       a running process's figures as a live table"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeemo-run",
        description="Emotion of calls, every 160 ms, from a compiled artifact.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("artifact", type=Path, help="file written by `edgeemo compile` for this machine, or a folder of models")
    parser.add_argument("audio", nargs="+", help="one call each: audio files, .pcm .ul .al without header, or - for stdin")
    parser.add_argument("--rate", type=int, default=8000, help="sample rate of stdin and headerless files, Hz (default 8000)")
    parser.add_argument("--encoding", choices=ENCODINGS, default="s16", help="of stdin (default s16, little-endian)")
    parser.add_argument("--config", type=Path, help="TOML file: streams, audio, decision rules, canary, metrics")
    parser.add_argument("--rules", choices=PRESETS, help="decision rules (default call-centre)")
    parser.add_argument("--alpha", type=float, help="weight of the newest step in the moving average, in (0, 1]")
    parser.add_argument("--streams", type=int, help="calls side by side (default 16)")
    parser.add_argument("--skip-silence", action="store_true", help="silent calls do not go through the network")
    parser.add_argument("--real-time", action="store_true", help="files come as live calls would, and the process is operated")
    parser.add_argument("--repeat", action="store_true", help="with --real-time: the files again and again, until told to stop")
    parser.add_argument("--observe", help="how long a canary is watched before it serves all, e.g. 30m (default 30m)")
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
        line = {
            "call": name,
            "start_s": round(result.start_s, 6),
            "end_s": round(result.end_s, 6),
            "label": result.label,
            **({"intensity": result.intensity} if result.intensity else {}),
            "probabilities": {n: round(float(p), 6) for n, p in zip(labels, result.probabilities, strict=True)},
            "smoothed": {n: round(float(p), 6) for n, p in zip(labels, result.smoothed, strict=True)},
            "model": result.model,
        }
        print(json.dumps(line | ({"handoff": result.handoff} if result.handoff else {})), flush=True)
        return
    best = int(result.smoothed.argmax())
    said = f"{labels[best]} {result.smoothed[best]:.3f}" + (f"  handoff: {result.handoff}" if result.handoff else "")
    print(f"{name}  {result.start_s:7.2f}-{result.end_s:7.2f} s  {result.intensity or result.label:8}  {said}", flush=True)


def _run_files(engine: Engine, calls: list[Call]) -> Iterator[tuple[str, Result]]:
    """As fast as it goes: every call's audio a hop at a time, side by side."""
    hop = engine.samples_per_step
    for first in range(0, len(calls), engine.max_streams):
        group = calls[first : first + engine.max_streams]
        streams = [engine.open(c.user) for c in group]
        names = {s.id: c.name for s, c in zip(streams, group, strict=True)}
        for at in range(0, max(len(c.audio) for c in group), hop):
            for stream, call in zip(streams, group, strict=True):
                stream.push(call.audio[at : at + hop])
                if at < len(call.audio) <= at + hop:
                    stream.finish()
            for result in engine.step():
                yield names[result.stream], result
        for stream in streams:
            stream.close()


def _run_live(
    engine: Engine, calls: list[Call], config: Config, models: Path | None, repeat: bool
) -> Iterator[tuple[str, Result]]:
    """Paced as calls are, with everything that an operated process does between two steps."""
    loop = LiveLoop(engine, Scheduler(budget_s=config.engine.budget_ms / 1000))
    operator = Operator(engine, loop, config, models)
    operator.take_signals(end=True)
    log("started", artifact=str(engine.model.artifact.path), version=engine.model.version, streams=engine.max_streams)
    ended = False

    def poll() -> bool:
        nonlocal ended
        ended = not operator.poll()
        return not ended

    try:
        while not ended:
            for results, refused in loop.run(calls, poll):
                for call in refused:
                    log("call_refused", call=call.name, reason=f"all {engine.max_streams} streams are in use")
                for result in results:
                    yield loop.names[result.stream], result
            if not repeat:
                break
    finally:
        operator.close()
        log("stopped", **engine.counters.document())


def _run_stdin(engine: Engine, rate: int, encoding: str, config: Config, models: Path | None) -> Iterator[tuple[str, Result]]:
    """One live call. SIGTERM ends the process as ever: a pipe that brings nothing must not hold it."""
    operator = Operator(engine, LiveLoop(engine, Scheduler()), config, models)
    operator.take_signals(end=False)
    resample = stream_resampler(rate, engine.sample_rate)
    width = ENCODINGS[encoding]
    with engine.open() as stream:
        left, heard, last = b"", 0, False
        stdin = sys.stdin.fileno()  # unbuffered: a live call is answered as its audio comes
        while not last:
            data = os.read(stdin, int(rate * CHUNK_S) * width)
            last = not data
            data = left + data
            whole = len(data) // width * width
            left = data[whole:]
            samples = decode_raw(data[:whole], encoding)
            heard += len(samples)
            yield from _answers(engine, stream, resample(samples, last))
            operator.poll()
            if last and heard:
                stream.finish()
                yield from _answers(engine, stream, np.zeros(0, dtype=np.float32))
        if not heard:
            raise EdgeEmoError("-: no audio on stdin; pipe raw mono audio into it, as --encoding and --rate say")


def _answers(engine: Engine, stream: Stream, samples: np.ndarray) -> Iterator[tuple[str, Result]]:
    hop = engine.samples_per_step
    for at in range(0, max(1, len(samples)), hop):
        stream.push(samples[at : at + hop])
        for result in engine.step():
            yield "-", result


def _configured(arguments: argparse.Namespace) -> Config:
    """The config file with what the command line says on top. For files and stdin at full speed nothing is dropped."""
    config = load_config(arguments.config) if arguments.config else Config()
    decision = PRESETS[arguments.rules] if arguments.rules else config.decision
    if arguments.alpha is not None:
        decision = replace(decision, alpha=arguments.alpha)
    audio = replace(config.audio, skip_silence=True) if arguments.skip_silence else config.audio
    engine = config.engine
    if not arguments.config:
        engine = replace(engine, max_streams=min(arguments.streams or 16, max(1, len(arguments.audio))))
    elif arguments.streams:
        engine = replace(engine, max_streams=arguments.streams)
    if not arguments.real_time:
        engine = replace(engine, overload="refuse", spread_phases=False)
    canary = replace(config.canary, observe=arguments.observe) if arguments.observe else config.canary
    return replace(config, engine=engine, audio=audio, decision=decision, canary=canary)


def run(arguments: argparse.Namespace) -> None:
    if "-" in arguments.audio and len(arguments.audio) > 1:
        raise EdgeEmoError("- reads one call from stdin; give it alone, or files")
    config = _configured(arguments)
    single_core.take_place(config.engine.cpu, config.engine.priority)
    models = arguments.artifact if (arguments.artifact / store.CURRENT).is_symlink() else None
    e = config.engine
    engine = Engine(
        store.current(models) if models else arguments.artifact,
        e.max_streams,
        config.decision,
        config.audio,
        e.overload,
        e.backlog_hops,
        e.spread_phases,
    )
    single_core.assert_single()
    single_core.settle_memory()
    summary = _Summary(engine.labels)
    if arguments.audio == ["-"]:
        results = _run_stdin(engine, arguments.rate, arguments.encoding, config, models)
    else:
        calls = [Call(f, load_call(f, engine.sample_rate, arguments.rate), user=Path(f).stem) for f in arguments.audio]
        live = arguments.real_time
        results = _run_live(engine, calls, config, models, arguments.repeat) if live else _run_files(engine, calls)
    for name, result in results:
        summary.add(name, result.probabilities)
        if not arguments.summary:
            _print_result(name, result, engine.labels, arguments.json)
    if not arguments.json and summary.rows:
        summary.print(engine.step_s)


def main(argv: Sequence[str] | None = None) -> None:
    if argv is None:
        single_core.without_openssl()
        argv = sys.argv[1:]
    try:
        if argv and argv[0] in commands.COMMANDS:
            commands.run(argv)
            return
        arguments = _parser().parse_args(argv)
        if arguments.rate < 1 or (arguments.streams is not None and arguments.streams < 1):
            _parser().error("--rate and --streams must be at least 1")
        if arguments.repeat and not arguments.real_time:
            _parser().error("--repeat is for --real-time")
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
