"""Measurements of `edgeemo bench` as one document: host ratios, modelled cycles, where they go, INT8 against float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeemo_runtime.artifact import unchecked
from edgeemo_runtime.members import read_members

from edgeemo.bench import host, modelled

SHARES_AT = 8  # streams at which shares and INT8 against float are given


def bench_host(int8: Path, floating: Path | None, streams: list[int], advance: Callable[[int], None]) -> dict[str, Any]:
    """Cost per stream by number of streams, in units of INT8's at the largest batch; and float's over INT8's."""
    times = {"int8": host.seconds_per_step(int8, streams)}
    advance(1)
    if floating is not None:
        times["float"] = host.seconds_per_step(floating, streams)
        advance(1)
    unit = times["int8"][max(streams)] / max(streams)
    cost = {name: {n: round(t / n / unit, 3) for n, t in by.items()} for name, by in times.items()}
    document: dict[str, Any] = {"unit": f"INT8 cost per stream at {max(streams)} streams", "cost_per_stream": cost}
    if floating is not None:
        document["float_over_int8"] = {n: round(cost["float"][n] / cost["int8"][n], 2) for n in streams}
    return document


def bench_modelled(
    tool: Path, int8: Path, floating: Path | None, streams: list[int], advance: Callable[[int], None]
) -> dict[str, Any]:
    """M cycles (modelled, on the target's core) per batched step, the limit of 8 INT8 MAC per cycle, and shares per kernel."""
    manifest = unchecked(read_members(int8)).manifest
    limit, streamed = manifest["int8_macs_per_step"] / 8, manifest["stream"] is not None
    rows, shares, at_8 = [], {}, None
    for n in streams:
        cost = modelled.measure(tool, int8, n)
        advance(1)
        at_8 = cost if n == SHARES_AT else at_8
        rows.append(
            {
                "streams": n,
                "instructions": round(cost.instructions),
                "core": round(cost.core),
                "real": round(cost.real),
                "real_per_stream": round(cost.real / n),
                "over_limit": round(cost.real / n / limit, 3) if limit else None,
                "streams_per_core": modelled.streams_per_core(cost.real / n, modelled.clock_mhz(manifest["target"]["name"])),
            }
        )
        if n == SHARES_AT or len(streams) == 1:
            shares = {k: round(v, 4) for k, v in cost.kernels.items() if v >= 0.001}
    document: dict[str, Any] = {"limit_per_stream": round(limit), "int8": rows, "share_per_kernel": shares}
    if floating is not None:
        cost = modelled.measure(tool, floating, SHARES_AT)
        same = at_8 or modelled.measure(tool, int8, SHARES_AT)
        advance(3)
        document["at_8_streams"] = {
            "float_core": round(cost.core),
            "float_real": round(cost.real),
            "float_over_int8": round(cost.real / same.real, 3),
        }
        if streamed:
            engine = modelled.measure(tool, int8, SHARES_AT, "engine")
            document["at_8_streams"]["engine_over_step"] = round(engine.real / same.real, 3)
    return document
