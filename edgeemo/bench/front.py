"""Cost of a live call's packet, and of an answer to it, for the front on a board's core, by how many wait for a turn of the event
loop, modelled: `python -m edgeemo.bench.front A72COST [TARGET]`, after A72COST/setup with the names of the Makefile's AIOHTTP."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeemo.bench import modelled
from edgeemo.bench.front_step import ANSWERED
from edgeemo.targets.board import load_target

SCRIPT = Path(__file__).parent / "front_step.py"
ROUNDS, WARM_UP = 40, 20
TURNS = (1, 4, 16, 64)
PACKETS_PER_S = 50  # of a call


def costs_of(tool: Path, target: str, protocol: str) -> dict[int, float]:
    """Cycles of a packet, or with "answers" or "changes" of an answer, with caches and DRAM, by how many there are a turn."""
    core = load_target(target).cpu
    found = {}
    for calls in TURNS:
        arguments = [protocol, str(calls), str(ROUNDS), str(WARM_UP)]
        found[calls] = modelled.run(tool, SCRIPT, arguments, None, ROUNDS, core).real / calls
    return found


def most_calls(costs: dict[int, float], mhz: int) -> int:
    """Calls whose packets one core takes: as many wait for each turn as it has time for, so that the most do at the end."""
    return int(mhz * 1e6 / PACKETS_PER_S / costs[max(costs)])


def main() -> None:
    tool, target = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "aarch64-neon"
    mhz = modelled.clock_mhz(target)
    print(f"| cycles ({target}, modelled) | {' | '.join(f'{n} a turn' for n in TURNS)} | calls on a core |")
    print("|---|" + "---|" * (len(TURNS) + 1))
    for protocol in ("audiosocket", "rtp", "websocket", "twilio", "answers", "changes"):
        costs = costs_of(tool, target, protocol)
        calls = "" if protocol in ANSWERED else most_calls(costs, mhz)
        print(f"| {protocol} | {' | '.join(f'{c:,.0f}' for c in costs.values())} | {calls} |", flush=True)


if __name__ == "__main__":
    main()
