"""`edgeemo-run run`: calls through one engine, from files, from stdin, or from files as live calls would come."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from edgeemo_runtime import process
from edgeemo_runtime.audio import Audio, open_call
from edgeemo_runtime.decision import PRESETS
from edgeemo_runtime.engine import Engine
from edgeemo_runtime.errors import EdgeEmoError, printable
from edgeemo_runtime.members import read_members
from edgeemo_runtime.ops import store
from edgeemo_runtime.ops.commands import trust_of
from edgeemo_runtime.ops.config import Config, load_config
from edgeemo_runtime.ops.lines import LineWriter, log
from edgeemo_runtime.ops.live import Call, LiveLoop
from edgeemo_runtime.ops.stdin_audio import pipe_blocks
from edgeemo_runtime.ops.supervisor import Supervisor
from edgeemo_runtime.probe import probed
from edgeemo_runtime.results import Result
from edgeemo_runtime.schedule import Scheduler
from edgeemo_runtime.stream import Stream
from edgeemo_runtime.trust import Trust

LEGS = {"left": "caller", "right": "agent"}  # of a recording with both in one file


def warn(sentence: str) -> None:
    print(f"edgeemo-run: warning: {printable(sentence)}", file=sys.stderr, flush=True)


class _Summary:
    """Per call: its steps, how many count, and the sum of their probabilities, whose mean is what it was on the whole (`edgeemo
    eval` takes a clip's last step where a model hears the call). Those count that have a label, or all while none has."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.rows: dict[str, tuple[int, int, np.ndarray]] = {}
        self.heard: set[str] = set()

    def add(self, name: str, result: Result) -> None:
        steps, counted, total = self.rows.get(name, (0, 0, np.zeros(len(self.labels))))
        if not result.listening and name not in self.heard:
            self.heard.add(name)
            counted, total = 0, np.zeros(len(self.labels))
        self.rows[name] = steps + 1, counted + 1, total + result.probabilities

    def print(self, step_s: float) -> None:
        rows = {printable(name): row for name, row in self.rows.items()}
        width = max([4, *(len(n) for n in rows)])
        print(f"{'call':{width}}  seconds  {'emotion':8}  mean p")
        for name, (steps, counted, total) in rows.items():
            mean = total / counted
            best = int(mean.argmax())
            print(f"{name:{width}}  {steps * step_s:7.2f}  {self.labels[best]:8}  {mean[best]:6.3f}")


def _line(name: str, result: Result, labels: tuple[str, ...], as_json: bool) -> str:
    if as_json:
        line = {
            "call": name,
            "start_s": round(result.start_s, 6),
            "end_s": round(result.end_s, 6),
            "label": result.label,  # null while the call is listened to
            **({"intensity": result.intensity} if result.intensity else {}),
            "probabilities": {n: round(float(p), 6) for n, p in zip(labels, result.probabilities, strict=True)},
            "smoothed": {n: round(float(p), 6) for n, p in zip(labels, result.smoothed, strict=True)},
            "model": result.model,
        }
        return json.dumps(line | ({"handoff": result.handoff} if result.handoff else {}))
    best = int(result.smoothed.argmax())
    said = f"{labels[best]} {result.smoothed[best]:.3f}" + (f"  handoff: {result.handoff}" if result.handoff else "")
    label = "listening" if result.label is None else result.intensity or result.label
    return f"{printable(name)}  {result.start_s:7.2f}-{result.end_s:7.2f} s  {label:9}  {said}"


def _calls(arguments: Namespace, rate: int) -> list[Call]:
    """A call for every file, or two for its two channels: of one user, and with a name of its own."""
    calls: list[Call] = []
    names: dict[str, int] = {}
    for file in arguments.audio:
        names[file] = names.get(file, 0) + 1
        name = file if names[file] == 1 else f"{file}#{names[file]}"
        opened: Callable[..., Audio] = partial(open_call, file, rate, arguments.rate, warn=warn)
        if arguments.channel == "both":
            for channel, leg in LEGS.items():
                calls.append(Call(f"{name}:{leg}", partial(opened, channel=channel), user=Path(file).stem))
        else:
            calls.append(Call(name, partial(opened, channel=arguments.channel), user=Path(file).stem))
    return calls


class _Open:
    """A call whose audio is read as fast as it goes."""

    def __init__(self, engine: Engine, call: Call) -> None:
        self.call, self.audio = call, call.open()
        self.stream = engine.open(call.user)
        self.ended = False

    def push(self, hop: int) -> None:
        piece = self.audio.read(hop)
        self.stream.push(piece)
        if len(piece) < hop:
            self.stream.finish()
            self.ended = True


def _run_files(engine: Engine, calls: list[Call], failed: Callable[[Call, EdgeEmoError], None]) -> Iterator[tuple[str, Result]]:
    """As fast as it goes: every call's audio a hop at a time, side by side; the next call begins where one has ended."""
    coming, running = list(reversed(calls)), dict[int, _Open]()
    while coming or running:
        while coming and len(running) < engine.max_streams:
            opened = _Open(engine, coming.pop())
            running[opened.stream.id] = opened
        for one in running.values():
            try:
                one.push(engine.samples_per_step)
            except EdgeEmoError as error:
                one.ended = True
                failed(one.call, error)
        for result in engine.step():
            yield running[result.stream].call.name, result
        for one in [o for o in running.values() if o.ended]:
            one.stream.close()
            del running[one.stream.id]


def _run_live(
    engine: Engine, calls: list[Call], config: Config, models: Path | None, trust: Trust, repeat: bool
) -> Iterator[tuple[str, Result]]:
    """Paced as calls are, with everything that an operated process does between two steps."""
    loop = LiveLoop(engine, Scheduler(budget_s=config.engine.budget_ms / 1000))
    supervisor = Supervisor(engine, loop, config, models, trust)
    supervisor.install_signal_handlers(end=True)
    log("started", artifact=str(engine.model.artifact.path), version=engine.model.version, streams=engine.max_streams)
    ended = False

    def poll() -> bool:
        nonlocal ended
        ended = not supervisor.poll()
        return not ended

    def failed(call: Call, error: EdgeEmoError) -> None:
        log("call_failed", call=call.name, reason=str(error))

    try:
        while not ended:
            for results, refused in loop.run(calls, poll, failed):
                for call in refused:
                    log("call_refused", call=call.name, reason=f"all {engine.max_streams} streams are in use")
                for result in results:
                    yield loop.names[result.stream], result
            if not repeat:
                break
    finally:
        supervisor.close()
        log("stopped", **engine.counters.document())


def _run_stdin(
    engine: Engine, arguments: Namespace, config: Config, models: Path | None, trust: Trust
) -> Iterator[tuple[str, Result]]:
    """One live call. SIGTERM ends the process as ever: a pipe that brings nothing must not hold it."""
    supervisor = Supervisor(engine, LiveLoop(engine, Scheduler()), config, models, trust)
    supervisor.install_signal_handlers(end=False)
    heard = 0
    with engine.open() as stream:
        blocks = pipe_blocks(sys.stdin.fileno(), arguments.rate, arguments.encoding, engine.sample_rate, arguments.channel)
        for samples in blocks:
            heard += len(samples)
            yield from _answers(engine, stream, samples)
            supervisor.poll()
        if heard:
            stream.finish()
            yield from _answers(engine, stream, np.zeros(0, dtype=np.float32))
    supervisor.close()
    if not heard:
        raise EdgeEmoError("-: no audio on stdin; pipe raw mono audio into it, as --encoding and --rate say, or WAV, AU, FLAC")


def _answers(engine: Engine, stream: Stream, samples: np.ndarray) -> Iterator[tuple[str, Result]]:
    hop = engine.samples_per_step
    for at in range(0, max(1, len(samples)), hop):
        stream.push(samples[at : at + hop])
        for result in engine.step():
            yield "-", result


def _configured(arguments: Namespace) -> Config:
    """The config file with what the command line says on top. For files and stdin at full speed nothing is dropped."""
    config = load_config(arguments.config) if arguments.config else Config()
    decision = PRESETS[arguments.rules] if arguments.rules else config.decision
    if arguments.alpha is not None:
        decision = replace(decision, alpha=arguments.alpha)
    audio = replace(config.audio, skip_silence=True) if arguments.skip_silence else config.audio
    engine = config.engine
    calls = len(arguments.audio) * (2 if arguments.channel == "both" else 1)
    if not arguments.config:
        engine = replace(engine, max_streams=min(arguments.streams or 16, max(1, calls)))
    elif arguments.streams:
        engine = replace(engine, max_streams=arguments.streams)
    if not arguments.real_time:
        engine = replace(engine, overload="refuse", spread_phases=False)
    canary = replace(config.canary, observe=arguments.observe) if arguments.observe else config.canary
    return replace(config, engine=engine, audio=audio, decision=decision, canary=canary)


def _engine(arguments: Namespace, config: Config, models: Path | None, trust: Trust) -> Engine:
    members = read_members(store.current(models, trust) if models else arguments.artifact)
    e = config.engine
    return Engine(
        probed(members, trust),
        e.max_streams,
        config.decision,
        config.audio,
        e.overload,
        e.backlog_hops,
        e.spread_phases,
        budget_s=e.budget_ms / 1000,
    )


def run(arguments: Namespace) -> bool:
    """Raises EdgeEmoError for what cannot be run at all. False if some of several files could not be read; the others were."""
    if "-" in arguments.audio and (len(arguments.audio) > 1 or arguments.channel == "both"):
        raise EdgeEmoError("- reads one call from stdin; give it alone, without --channel both, or files")
    config = _configured(arguments)
    trust = trust_of(arguments, config.models)
    process.bind_process(config.engine.cpu, config.engine.priority)
    models = arguments.artifact if (arguments.artifact / store.CURRENT).is_symlink() else None
    engine = _engine(arguments, config, models, trust)
    process.assert_single()
    process.freeze_gc()
    all_read = True

    def failed(call: Call, error: EdgeEmoError) -> None:
        nonlocal all_read
        all_read = False
        print(f"edgeemo-run: {printable(str(error))}", file=sys.stderr, flush=True)

    if arguments.audio == ["-"]:
        results = _run_stdin(engine, arguments, config, models, trust)
    elif arguments.real_time:
        results = _run_live(engine, _calls(arguments, engine.sample_rate), config, models, trust, arguments.repeat)
    else:
        results = _run_files(engine, _calls(arguments, engine.sample_rate), failed)
    _show(results, engine, arguments)
    return all_read


def _show(results: Iterator[tuple[str, Result]], engine: Engine, arguments: Namespace) -> None:
    """Prints results as they come. A live process does not wait for a slow reader: it leaves lines out, and says so."""
    summary = _Summary(engine.labels)
    live = LineWriter(sys.stdout.fileno()) if arguments.real_time and not arguments.summary else None
    lost = 0
    for name, result in results:
        summary.add(name, result)
        if arguments.summary:
            continue
        line = _line(name, result, engine.labels, arguments.json)
        if live is None:
            print(line, flush=True)
            continue
        live.write(line)
        if live.gone:
            raise BrokenPipeError
        if live.lost > 2 * lost:
            lost = live.lost
            log("results_left_out", lines=lost, reason="whoever reads them is too slow")
    if live is not None:
        live.finish()
    if not arguments.json and summary.rows:
        summary.print(engine.step_s)
