"""Memory and time of calibration against the number of clips: `python -m edgeemo.bench.calibration` (`make bench-calibration`).

The clips are those of calibration/ over and over, each number of them in a process of its own: one's peak is not another's.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import click

from edgeemo.console import FLOAT_MODEL, print_json, show_table, user_errors


def measure(model: Path, calib: Path, count: int) -> dict[str, float]:
    """In this process: seconds, and its largest resident memory in MB until now."""
    from edgeemo.data.clips import find_clips
    from edgeemo.onnxlib.load import load_onnx
    from edgeemo.quantize.plan import observe, plan
    from edgeemo.quantize.recipe import Recipe

    clips = find_clips(calib)
    clips = (clips * (count // len(clips) + 1))[:count]
    planned = plan(load_onnx(model), str(model), Recipe())
    start = time.monotonic()
    steps = observe(planned, clips).steps
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"clips": count, "steps": steps, "seconds": round(seconds, 1), "peak_rss_mb": round(peak)}


@click.command()
@click.argument("model", type=click.Path(path_type=Path), default=FLOAT_MODEL)
@click.option("--calib", type=click.Path(path_type=Path), default=Path("calibration"), help="Folder of clips.")
@click.option(
    "--calib-limit", "counts", type=click.IntRange(1), multiple=True, default=(100, 1000, 10_000), help="Numbers of clips."
)
@click.option("--here", is_flag=True, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@user_errors
def main(model: Path, calib: Path, counts: tuple[int, ...], here: bool, as_json: bool) -> None:
    """How long calibration takes, and how much memory, for so many clips."""
    if here:
        print_json(measure(model, calib, counts[0]))
        return
    found = []
    for count in counts:
        command = [
            sys.executable,
            "-m",
            "edgeemo.bench.calibration",
            str(model),
            "--calib",
            str(calib),
            "--calib-limit",
            str(count),
            "--here",
        ]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    if as_json:
        print_json({"calibration": found})
    else:
        show_table("calibration, one process", list(found[0]), [list(row.values()) for row in found])


if __name__ == "__main__":
    main()
