"""Clips and answers of the verbs that score models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.console import progress_bar, warn
from edgeemo.data.clips import Clip, evenly, read_manifest


def labelled_clips(
    data: Path, split: str | None, limit: int | None, preferred: str | None = None
) -> tuple[list[Clip], str | None]:
    """Clips of ``data`` with a label, and the split they are of: ``split``, else ``preferred`` where the manifest has it, else
    all. Raises EdgeEmoError where there is none."""
    clips = [c for c in read_manifest(data, split) if c.label is not None]
    if not clips:
        raise EdgeEmoError(f"{data}: no clip has a label; macro-F1 compares with labels")
    if split is None and preferred is not None and any(c.split == preferred for c in clips):
        split, clips = preferred, [c for c in clips if c.split == preferred]
    return evenly(clips, limit), split


def answers_of(models: tuple[Path, ...], clips: list[Clip], line: str = "clean") -> tuple[list[Any], list[list[np.ndarray]]]:
    """The models, every one opened before any runs, and each one's step probabilities of every clip. Raises EdgeEmoError if
    they do not have the same labels."""
    from edgeemo.evaluate.evaluate import clip_answers, open_model

    opened = [open_model(m) for m in models]
    for path, model in zip(models, opened, strict=True):
        if model.labels != opened[0].labels:
            raise EdgeEmoError(f"{path}: its labels are {', '.join(model.labels)}, those of {models[0]} others; not comparable")
        if model.hears != opened[0].hears:
            warn([f"{path} hears a {model.hears} and {models[0]} a {opened[0].hears}, so their clips are scored differently "
                  "(docs/stream-contract.md): export and compile again what was made before"])  # fmt: skip
    with progress_bar(f"{len(clips)} clips", len(models) * len(clips)) as advance:
        return opened, [clip_answers(m, clips, advance, line) for m in opened]


def interval_text(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.4f} to {ends[1]:+.4f}"
