"""Reliability of two checkpoints as a picture: how often answers of a confidence are right, of steps and of whole clips.

python -m edgeemo.bench.reliability before.safetensors after.safetensors --data A --data B --out reliability.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from edgeemo.bench.plot import Curve, plot_reliability
from edgeemo.bench.score_card import clip_steps, folder_clips
from edgeemo.console import check_report, user_errors
from edgeemo.data.clips import Clip
from edgeemo.evaluate.evaluate import clip_probabilities, open_model


def curves(checkpoint: Path, said: str, clips: Sequence[Clip], line: str) -> tuple[Curve, Curve]:
    """Answers of the steps and of the clips, (n, 7) each, with their labels (n,), through a ``line``."""
    model = open_model(checkpoint)
    answers = clip_steps(model, list(clips), line, said)
    label = np.array([c.label for c in clips])
    steps = Curve(said, np.concatenate(answers), label.repeat([len(a) for a in answers]))
    return steps, Curve(said, clip_probabilities(model.hears, answers), label)


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--data", "folders", type=click.Path(path_type=Path), multiple=True, required=True, help="Folders with splits dev and test."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the PNG goes.")
@click.option("--force", is_flag=True, help="Write over an existing file.")
@user_errors
def main(before: Path, after: Path, folders: tuple[Path, ...], out: Path, force: bool) -> None:
    """Draw BEFORE on test, and AFTER on dev, on test, and on test through a line with noise."""
    check_report(out, force)
    wanted = [(before, "before, test", "test", "clean"), (after, "after, dev", "dev", "clean")]
    wanted += [(after, "after, test", "test", "clean"), (after, "after, test, noise at 10 dB", "test", "noise10")]
    found = [
        curves(checkpoint, said, [c for folder in folder_clips(folders, split) for c in folder], line)
        for checkpoint, said, split, line in wanted
    ]
    plot_reliability({"steps": [s for s, _ in found], "clips": [c for _, c in found]}, out)


if __name__ == "__main__":
    main()
