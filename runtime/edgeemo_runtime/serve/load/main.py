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
    front, engine = report["resident_mb"]["front"], report["resident_mb"]["engines"]
    print(f"MB resident before, early, at the end: front {front}, engines {engine}")


def main(argv: Sequence[str] | None = None) -> None:
    """Exit code 1 if there is no service, or it does not take a call."""
    arguments = _parser().parse_args(argv)
    try:
        from edgeemo_runtime.serve.load.run import Network, run_load
        from edgeemo_runtime.serve.settings import read_secret
    except ImportError as error:
        print(f"edgeemo-load: needs {error.name}: pip install 'edgeemo-runtime[serve]'", file=sys.stderr)
        sys.exit(1)
    try:
        if arguments.calls < 1 or arguments.seconds < 1 or not 0 <= arguments.loss < 1 or not 0 <= arguments.reorder <= 1:
            raise EdgeEmoError("--calls and --seconds are at least 1, --loss lies in [0, 1), --reorder in [0, 1]")
        network = Network(arguments.loss, arguments.reorder, max(0.0, arguments.jitter_ms))
        token = read_secret(str(arguments.token)) if arguments.token else ""
        address = arguments.address or ADDRESSES[arguments.protocol]
        report = asyncio.run(
            run_load(
                arguments.protocol, address, arguments.http, arguments.calls, arguments.seconds, arguments.audio, network,
                arguments.seed, token,
            )
        )  # fmt: skip
    except EdgeEmoError as error:
        print(f"edgeemo-load: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        print(f"edgeemo-load: {type(error).__name__}: {first_line(error)}, internal error", file=sys.stderr)
        sys.exit(1)
    if arguments.json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
