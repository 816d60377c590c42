"""Scores of a checkpoint and its INT8 artifact on several folders together: the .scores.json of the committed weights.

python -m edgeemo.bench.score_card weights.safetensors int8-host.edgeemo --data A --data B --out weights.scores.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeemo.console import check_report, progress_bar, user_errors, write_report
from edgeemo.data.clips import Clip, read_manifest
from edgeemo.evaluate.compare import compare
from edgeemo.evaluate.evaluate import StepModel, clip_answers, clip_probabilities, evaluate, evaluate_intensity, open_model
from edgeemo.evaluate.metrics import calibration_error

LINES = ("clean", "alaw", "noise10")


def folder_clips(folders: Sequence[Path], split: str) -> list[list[Clip]]:
    """Labelled clips of each folder. BAVED has levels of arousal, not emotions."""
    return [[c for c in read_manifest(f, split) if c.label is not None and c.corpus != "baved"] for f in folders]


def clip_steps(model: StepModel, clips: list[Clip], line: str, said: str) -> list[np.ndarray]:
    """Each clip's answers (steps, 7) through a line, with a progress bar."""
    with progress_bar(said, len(clips)) as advance:
        return clip_answers(model, clips, advance, line)


def scored(model: StepModel, folders: list[list[Clip]], line: str, said: str) -> dict[str, Any]:
    """Macro-F1 of the first folder, of all, by corpus; calibration errors over all."""
    clips = [c for folder in folders for c in folder]
    answers = clip_steps(model, clips, line, said)
    label, counts = np.array([c.label for c in clips]), [len(a) for a in answers]
    first, every = (evaluate(model, clips[:n], answers[:n]) for n in (len(folders[0]), len(clips)))
    return {
        "clips": first["clips"],
        "macro_f1": round(first["macro_f1"], 4),
        "accuracy": round(first["accuracy"], 4),
        "all_folders_macro_f1": round(every["macro_f1"], 4),
        "calibration_error": {
            "steps": round(calibration_error(np.concatenate(answers), label.repeat(counts)), 4),
            "clips": round(calibration_error(clip_probabilities(model.hears, answers), label), 4),
        },
        "per_corpus": {name: round(found["macro_f1"], 4) for name, found in every["per_corpus"].items()},
    }


def int8_drop(model: StepModel, other: StepModel, folders: list[list[Clip]], said: str) -> list[dict[str, Any]]:
    """Comparison of ``other`` with ``model`` on each folder."""
    found = []
    for clips in folders:
        before, after = (clip_steps(m, clips, "clean", said) for m in (model, other))
        p, q = clip_probabilities(model.hears, before), clip_probabilities(other.hears, after)
        made = compare(p, q, clips, tuple(model.labels)).document()
        found.append({name: value for name, value in made.items() if name != "worst"})
    return found


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--data", "folders", type=click.Path(path_type=Path), multiple=True, required=True, help="Folders with splits dev and test."
)
@click.option("--no-test", is_flag=True, help="Leave the test split alone: while choosing.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the JSON goes.")
@click.option("--force", is_flag=True, help="Write over an existing file.")
@user_errors
def main(checkpoint: Path, artifact: Path, folders: tuple[Path, ...], no_test: bool, out: Path, force: bool) -> None:
    """Scores of CHECKPOINT and of ARTIFACT, its INT8 build for this machine."""
    check_report(out, force)
    model, other = open_model(checkpoint), open_model(artifact)
    report: dict[str, Any] = {}
    for split in ("dev",) if no_test else ("dev", "test"):
        clips = folder_clips(folders, split)
        for line in LINES:
            report[split if line == "clean" else f"{split}_{line}"] = scored(model, clips, line, f"{split}, {line}")
        report[f"{split}_int8"] = int8_drop(model, other, clips, f"{split}, INT8")
        report[f"{split}_intensity"] = evaluate_intensity(model, [c for folder in clips for c in folder])
    write_report(report, out, True)
    click.echo(f"{out}: dev macro-F1 {report['dev']['macro_f1']}")


if __name__ == "__main__":
    main()
