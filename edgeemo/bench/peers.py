"""Other runtimes next to ours in one run: our own model, our own QDQ file, one thread, the same batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeemo_runtime.artifact import unchecked
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.members import read_members

from edgeemo.bench import host, modelled
from edgeemo.bench.board_step import steps_of
from edgeemo.bench.litert import FLOAT, INT8, PRODUCTS
from edgeemo.bench.peer_step import RUNTIMES

SCRIPT = Path(__file__).parent / "peer_step.py"


@dataclass(frozen=True)
class Peer:
    name: str
    runtime: str  # a key of RUNTIMES
    model: Path


def litert_peers(folder: Path) -> list[Peer]:
    """The files of edgeemo/bench/litert.py. Raises EdgeEmoError where they or LiteRT are missing."""
    try:
        import ai_edge_litert  # noqa: F401
    except ImportError as error:
        raise EdgeEmoError("LiteRT is not installed: pip install 'edgeemo[peers]', or leave --litert out") from error
    files = {"LiteRT INT8 (products)": PRODUCTS, "LiteRT INT8 (all)": INT8, "LiteRT FP32": FLOAT}
    peers = [Peer(name, "litert", folder / file) for name, file in files.items()]
    for peer in peers:
        if not peer.model.is_file():
            raise EdgeEmoError(f"{peer.model}: no such file; `make bench-peers` makes it")
    return peers


def compare(
    ours: dict[str, tuple[Path, Path]], peers: list[Peer], streams: int, tool: Path | None, advance: Callable[[int], None]
) -> dict[str, Any]:
    """``ours``: name to (host artifact, aarch64 artifact), the first being the unit. Wall-clock ratios on this machine; where
    ``tool`` is, modelled cycles of a batched step on the target's core, the Python that calls the runtime in theirs only."""
    calls = {name: steps_of(str(built), streams)(streams) for name, (built, _) in ours.items()}
    calls |= {peer.name: RUNTIMES[peer.runtime](str(peer.model), streams) for peer in peers}
    seconds = host.fastest(calls)
    advance(len(calls))
    unit = next(iter(seconds.values()))
    rows: list[dict[str, Any]] = [{"name": n, "host_ratio": round(s / unit, 2)} for n, s in seconds.items()]
    document: dict[str, Any] = {"streams": streams, "unit": next(iter(ours)), "rows": rows}
    if tool is None:
        return document
    manifest = unchecked(read_members(next(iter(ours.values()))[1])).manifest
    macs, target = manifest["macs_per_step"] * streams, manifest["target"]
    document["core"], mhz = target["cpu"], modelled.clock_mhz(target["name"])
    by_name = {row["name"]: row for row in rows}
    for name, (_, built) in ours.items():
        _add(by_name[name], modelled.measure(tool, built, streams), streams, macs, mhz)
        advance(1)
    for peer in peers:
        arguments = [peer.runtime, str(peer.model.resolve()), str(streams), str(modelled.STEPS)]
        cost = modelled.run(tool, SCRIPT, arguments, None, modelled.STEPS, target["cpu"])
        _add(by_name[peer.name], cost, streams, macs, mhz)
        advance(1)
    return document


def _add(row: dict[str, Any], cost: modelled.Cost, streams: int, macs: int, mhz: int) -> None:
    row |= {"core": round(cost.core), "real": round(cost.real), "real_per_mac": round(cost.real / macs, 3)}
    row["streams_per_core"] = modelled.streams_per_core(cost.real / streams, mhz)
