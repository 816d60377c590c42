"""The commands of edgeemo-run besides running calls: install, rollback, list, bench, top, feed, doctor."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgeemo_runtime import process
from edgeemo_runtime.errors import EdgeEmoError, first_line, printable
from edgeemo_runtime.function import Function
from edgeemo_runtime.ops import doctor, loadtest, store, top
from edgeemo_runtime.ops.board_targets import best_artifact
from edgeemo_runtime.ops.config import EngineRules, ModelRules, load_config
from edgeemo_runtime.trust import Trust, load_trust

COMMANDS = ("install", "rollback", "list", "bench", "top", "feed", "doctor")


def add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="only what this minisign key signed (.pub file, or the key itself); again for several",
    )
    parser.add_argument("--allow-writable", action="store_true", help="take files and folders that others may write, too")


def trust_of(arguments: argparse.Namespace, rules: ModelRules) -> Trust:
    """Whose artifacts may run: the keys of the command line and the config together."""
    return load_trust([*arguments.trust, *rules.trust], arguments.allow_writable or rules.allow_writable)


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    install = verbs.add_parser("install", help="unpack a model, check it, make it current")
    install.add_argument(
        "artifact", type=Path, nargs="+", help="of several, for different boards, the one that fits this one best"
    )
    install.add_argument("--canary", action="store_true", help="for a share of the users first ([canary] in the config)")
    rollback = verbs.add_parser("rollback", help="back to the model that was current before")
    listing = verbs.add_parser("list", help="models, their checks, and which is live")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    for verb in (install, rollback, listing):
        verb.add_argument("--models", type=Path, required=True, metavar="DIR", help="folder of models")
        verb.add_argument("--config", type=Path, help="TOML file: its [models] says whose are taken")
        add_trust(verb)
    bench = verbs.add_parser("bench", help="many calls through one engine: percentiles, memory, misses")
    bench.add_argument("artifact", type=Path)
    bench.add_argument("--streams", type=int, default=80)
    bench.add_argument("--seconds", type=float, default=60.0, help="length of the calls")
    bench.add_argument("--real-time", action="store_true", help="paced as calls are, phases at random; else as fast as it goes")
    bench.add_argument("--spread-phases", action="store_true", help="lead calls in so that their hops end evenly")
    bench.add_argument("--budget-ms", type=float, default=20.0, help="from a hop's last sample to its answer")
    bench.add_argument("--cpu", type=int, default=-1, help="the core to stay on")
    bench.add_argument("--priority", type=int, default=0, help="before all ordinary processes, 1 to 99 (SCHED_FIFO)")
    bench.add_argument("--seed", type=int, default=0, help="of phases and audio")
    bench.add_argument("--plot", type=Path, help="PNG histogram of the latencies")
    bench.add_argument("--json", action="store_true", help="one JSON document")
    feed = verbs.add_parser("feed", help="arrays through a model that hears no audio")
    feed.add_argument("artifact", type=Path)
    feed.add_argument("inputs", type=Path, help=".npz with an array (batch, ...) per input")
    feed.add_argument("--out", type=Path, required=True, help=".npz for the outputs; not written over")
    table = verbs.add_parser("top", help="a running process's figures as a live table")
    table.add_argument("status", type=Path, help="the file that [metrics] status in its config names")
    table.add_argument("--once", action="store_true", help="print one table and end")
    checks = verbs.add_parser("doctor", help="what this machine is, what is in the way, how many calls to expect")
    checks.add_argument("artifact", type=Path, nargs="?", help="an artifact, or a folder of models: whether it runs here")
    checks.add_argument("--capacity", type=Path, metavar="FILE", help="what `edgeemo capacity --out FILE` planned")
    checks.add_argument("--priority", type=int, default=50, help="the priority that is wanted, 1 to 99 (default 50)")
    checks.add_argument("--json", action="store_true", help="one JSON document")
    add_trust(checks)


def run(arguments: argparse.Namespace) -> bool:
    """Whether all is well: doctor says no where nothing can run. Raises EdgeEmoError for what cannot be done."""
    if arguments.command in ("install", "rollback", "list"):
        trust = trust_of(arguments, load_config(arguments.config).models if arguments.config else ModelRules())
    if arguments.command == "install":
        role = store.CANARY if arguments.canary else store.CURRENT
        name = store.install(best_artifact(arguments.artifact), arguments.models, role, trust)
        print(f"{printable(str(arguments.models / name))}: installed, {role}")
    elif arguments.command == "rollback":
        print(f"{printable(str(arguments.models / store.rollback(arguments.models, trust)))}: current again")
    elif arguments.command == "list":
        _list(arguments.models, arguments.json, trust)
    elif arguments.command == "bench":
        _bench(arguments)
    elif arguments.command == "feed":
        _feed(arguments.artifact, arguments.inputs, arguments.out)
    elif arguments.command == "doctor":
        if not 1 <= arguments.priority <= 99:
            raise EdgeEmoError(f"--priority {arguments.priority}: SCHED_FIFO has 1 to 99")
        trust = trust_of(arguments, ModelRules())
        return doctor.doctor(arguments.artifact, arguments.capacity, arguments.priority, arguments.json, trust)
    else:
        top.top(arguments.status, arguments.once)
    return True


def _feed(artifact: Path, inputs: Path, out: Path) -> None:
    if out.exists():
        raise EdgeEmoError(f"{out}: is there already; --out names another")
    try:
        with np.load(inputs, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except Exception as error:  # numpy passes on whatever its parsers meet
        raise EdgeEmoError(f"{inputs}: not an .npz of plain arrays ({first_line(error)})") from error
    results = Function(artifact).run(found)
    try:
        with out.open("wb") as file:
            np.savez(file, **results)  # type: ignore[arg-type]  # numpy's own stub takes a name for a flag
    except OSError as error:
        raise EdgeEmoError(f"{out}: cannot be written ({error.strerror})") from error
    for name, array in results.items():
        ends = f", {array.min():.6g} to {array.max():.6g}" if array.size else ""
        print(f"{printable(name)}: {array.dtype} {array.shape}{ends}")


def _list(folder: Path, as_json: bool, trust: Trust) -> None:
    rows = store.installed(folder, trust)
    if as_json:
        print(json.dumps([asdict(r) for r in rows]))
        return
    width = max([4, *(len(r.name) for r in rows)])
    print(f"{'name':{width}}  {'version':19}  {'role':8}  checks")
    for r in rows:
        print(f"{printable(r.name):{width}}  {r.version:19}  {r.role:8}  {r.problem or 'fine'}")


def _bench(arguments: argparse.Namespace) -> None:
    if arguments.streams < 1 or arguments.seconds < 1 or arguments.budget_ms <= 0:
        raise EdgeEmoError("bench needs --streams and --seconds of at least 1 and a positive --budget-ms")
    if arguments.plot and not arguments.real_time:
        raise EdgeEmoError("--plot shows latencies, which only --real-time has")
    rules = EngineRules(cpu=arguments.cpu, priority=arguments.priority)
    if arguments.plot:
        loadtest.check_plot()
    process.bind_process(rules.cpu, rules.priority)
    document = loadtest.run_bench(
        arguments.artifact,
        arguments.streams,
        arguments.seconds,
        arguments.real_time,
        arguments.seed,
        arguments.spread_phases,
        arguments.budget_ms / 1000,
    )
    if arguments.plot:
        loadtest.plot_histogram(document, arguments.plot)
    if arguments.json:
        print(json.dumps(document))
    else:
        loadtest.show(document)
