"""`edgeemo capacity`: how many calls a board holds, from the cost of a batch and the runtime's own scheduler in simulated
time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from edgeemo_runtime.capacity import most_streams, plan
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.model import MAX_BATCH

from edgeemo.bench.modelled import clock_mhz

COSTS = Path(__file__).parent / "costs"


def batch_seconds(target: str, costs: Path | None) -> tuple[np.ndarray, str]:
    """Seconds of a batch by its size (17,), Python of Engine.step included, and where they come from.

    ``costs`` is a report of `edgeemo bench --a72cost ... --out FILE`; without one, that of the committed model for ``target``.
    Sizes that were not measured lie between their neighbours. Raises EdgeEmoError where there is no such report, or no cost in
    it.
    """
    path = costs or COSTS / f"{target}.json"
    try:
        document = json.loads(path.read_text())["modelled"]
        rows = [(r["streams"], r["real"]) for r in document["int8"]]
        at_8 = document["at_8_streams"]
        python = (at_8["engine_over_step"] - 1) * dict(rows)[8]
    except OSError as error:
        have = ", ".join(p.stem for p in sorted(COSTS.glob("*.json")))
        raise EdgeEmoError(f"{path}: cannot be read ({error.strerror}); there are costs for {have}, or give --costs") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EdgeEmoError(
            f"{path}: no report with modelled costs and 8 streams among them ({error!r}); "
            "`edgeemo bench --a72cost DIR --board-float FILE --out FILE` writes one"
        ) from error
    sizes, cycles = zip(*sorted(rows), strict=True)
    between = np.interp(np.arange(1, MAX_BATCH + 1), sizes, cycles) + python
    return np.concatenate([[0.0], between / (clock_mhz(target) * 1e6)]), str(path)


def calls_per_core(target: str) -> int | None:
    """Streams of the committed model on a core of ``target``, in the batches that are quickest (modelled); None where nobody has
    modelled it."""
    path = COSTS / f"{target}.json"
    if not path.is_file():
        return None
    return max(int(row["streams_per_core"]) for row in json.loads(path.read_text())["modelled"]["int8"])


def capacity(target: str, streams: int, costs: Path | None) -> dict[str, Any]:
    """The plan of ``streams`` calls, and the most that fit, with phases as they come and spread."""
    seconds, source = batch_seconds(target, costs)
    document: dict[str, Any] = {"target": target, "costs": source, "streams": streams, "deadline_ms": 180}
    for name, spread in (("phases_at_random", False), ("phases_spread", True)):
        planned = plan(seconds, streams, spread=spread)
        rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(planned).items()}
        document[name] = {**rounded, "fits": planned.fits, "most_streams": most_streams(seconds, spread=spread)}
    return document
