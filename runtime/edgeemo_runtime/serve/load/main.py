"""edgeemo-load: n calls over a protocol in real time against a running edgeemo-serve."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeemo_runtime.errors import EdgeEmoError, first_line, printable

ADDRESSES = {"websocket": "ws://127.0.0.1:8081", "twilio": "ws://127.0.0.1:8081", "audiosocket": "127.0.0.1:9092", "rtp": ""}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeemo-load", description="Calls over a protocol in real time; how long answers take.", allow_abbrev=False
    )
    parser.add_argument("protocol", choices=ADDRESSES)
    parser.add_argument("audio", nargs="*", type=Path, help="audio files to say (default: noise)")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--address", help=f"of the listener (default {ADDRESSES['websocket']}, {ADDRESSES['audiosocket']})")
    parser.add_argument("--http", default="http://127.0.0.1:8080", help="of the service (default %(default)s)")
    parser.add_argument("--token", type=Path, metavar="FILE", help="whose first line is a bearer token")
    parser.add_argument("--loss", type=float, default=0.0, help="share of the packets that is lost (RTP)")
    parser.add_argument("--reorder", type=float, default=0.0, help="share that changes places with the next (RTP)")
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="delay of each packet, at random up to this")
    parser.add_argument("--reconnect", action="store_true", help="open calls again whose connection ends")
    parser.add_argument(
        "--churn",
        type=int,
        default=0,
        metavar="N",
        help="instead: N connections that open and close at random, --calls at a time",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    return parser


def show(report: dict[str, Any]) -> None:
    latency, cpu = report["latency_ms"], report["cpu"]
    print(f"{report['calls']} calls over {report['protocol']} for {report['seconds']:g} s: {report['packets']} packets")
    print(f"answers {report['answers']}, lost {report['lost_answers']}, ended by the server {report['ended_by_server']}")
    print("from a hop's last packet to its answer here, ms: " + ", ".join(f"{k} {v}" for k, v in latency.items()))
    engines = ", ".join(f"{100 * e:.0f} %" for e in cpu["engines"])
    print(
        f"of a core: front {100 * cpu['front']:.0f} %, engines {engines}; packets left up to {report['sender_worst_ms']} ms late"
    )
    if report["reconnects"]:
        print(f"connections opened again {report['reconnects']}, away for up to {report['max_away_s']} s")
    _show_memory(report, "before, early, at the end")


def show_churn(report: dict[str, Any]) -> None:
    outcome = ", ".join(f"{report[k]} {k}" for k in ("served", "refused", "failed"))
    print(f"{report['connections']} connections over {report['protocol']} in {report['seconds']} s: {outcome}")
    print(f"calls left at the end {report['calls_left']}, the front's open files {report['open_files']}")
    _show_memory(report, "before, halfway, after")


def _show_memory(report: dict[str, Any], when: str) -> None:
    front, engine = report["resident_mb"]["front"], report["resident_mb"]["engines"]
    print(f"MB resident {when}: front {front}, engines {engine}")


async def _report(asked: argparse.Namespace) -> dict[str, Any]:
    """Raises EdgeEmoError for options that make no sense, and as run_load and run_churn do."""
    from edgeemo_runtime.serve.load.churn import run_churn
    from edgeemo_runtime.serve.load.run import Network, run_load
    from edgeemo_runtime.serve.settings import read_secret

    if asked.calls < 1 or asked.seconds < 1 or asked.churn < 0 or not 0 <= asked.loss < 1 or not 0 <= asked.reorder <= 1:
        raise EdgeEmoError("--calls and --seconds are at least 1, --churn 0, --loss lies in [0, 1), --reorder in [0, 1]")
    token = read_secret(str(asked.token)) if asked.token else ""
    address = asked.address or ADDRESSES[asked.protocol]
    if asked.churn:
        return await run_churn(
            asked.protocol, address, asked.http, asked.churn, asked.calls, asked.audio, asked.seed, token
        )  # fmt: skip
    if asked.reconnect and asked.protocol == "rtp":
        raise EdgeEmoError("--reconnect is for connections; RTP has none, and its ports are announced anew after a restart")
    network = Network(asked.loss, asked.reorder, max(0.0, asked.jitter_ms))
    return await run_load(
        asked.protocol, address, asked.http, asked.calls, asked.seconds, asked.audio, network, asked.seed, token, asked.reconnect
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Exit code 1 if there is no service, or it does not take a call."""
    arguments = _parser().parse_args(argv)
    try:
        report = asyncio.run(_report(arguments))
    except EdgeEmoError as error:
        print(f"edgeemo-load: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except ImportError as error:
        print(f"edgeemo-load: needs {error.name}: pip install 'edgeemo-runtime[serve]'", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        print(f"edgeemo-load: {type(error).__name__}: {first_line(error)}, internal error", file=sys.stderr)
        sys.exit(1)
    if arguments.json:
        print(json.dumps(report))
    else:
        show_churn(report) if arguments.churn else show(report)


if __name__ == "__main__":
    main()
