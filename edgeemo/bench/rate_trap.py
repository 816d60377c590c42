"""The sampling-rate trap: `python -m edgeemo.bench.rate_trap --data DIR` (needs edgeemo[teacher]).

A classifier trained on 16 kHz studio speech hears telephone calls: what that costs, what it costs on top where nobody resamples,
and what training on speech that went through the same line brings back. Frozen Whisper tiny.en states (16 kHz by nature) under
logistic regression: nothing but the audio differs, and a convex fit has no seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import soxr
import torch
from edgeemo_runtime.audio import load_audio

from edgeemo.console import progress_bar, show_table, user_errors
from edgeemo.data.clips import Clip, read_manifest
from edgeemo.data.telephone import TelephoneChannel, through_line
from edgeemo.evaluate.metrics import confusion_matrix, macro_f1
from edgeemo.model.config import LABELS
from edgeemo.model.whisper import RATE, load_whisper
from edgeemo.train.teacher import Classifier, frozen_teacher, teach

TELEPHONE = 8000  # Hz
Change = Callable[[np.ndarray, int], np.ndarray]  # audio at 16 kHz and the clip's number, to what Whisper hears


def studio(audio: np.ndarray, seed: int) -> np.ndarray:
    return audio


def narrowed(audio: np.ndarray, seed: int) -> np.ndarray:
    """Nothing but 8 kHz in between."""
    return soxr.resample(soxr.resample(audio, RATE, TELEPHONE), TELEPHONE, RATE)


def on_the_line(audio: np.ndarray, seed: int) -> np.ndarray:
    """8 kHz, noise 20 dB under the speech, 300-3400 Hz, G.711 mu-law: at 8 kHz."""
    narrow = soxr.resample(audio, RATE, TELEPHONE)
    return through_line(through_line(narrow, "noise20", seed), "mulaw", seed)


def resampled(audio: np.ndarray, seed: int) -> np.ndarray:
    return soxr.resample(on_the_line(audio, seed), TELEPHONE, RATE)


def aligned(audio: np.ndarray, seed: int) -> np.ndarray:
    """A line of another kind for every clip, as training hears it."""
    channel = TelephoneChannel(seed, 0.7)
    narrow = torch.from_numpy(soxr.resample(audio, RATE, TELEPHONE))[None]
    return soxr.resample(channel(narrow)[0].numpy(), TELEPHONE, RATE)


def heard(clips: list[Clip], change: Change, title: str) -> np.ndarray:
    """Whisper's summary of every clip: float32 (clips, features)."""
    listen = frozen_teacher(load_whisper(), RATE)
    audio = [change(load_audio(c.path, RATE), i) for i, c in enumerate(clips)]
    with progress_bar(title, len(clips)) as advance:
        return teach([listen], audio, (), RATE, RATE // 50, 1, np.ones(len(clips)), advance)[1][0]


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder with manifest.csv, splits train and --split."
)
@click.option("--split", default="test", help="Scored on.")
@user_errors
def main(data: Path, split: str) -> None:
    """Print macro-F1 by what a classifier was trained on and what it hears."""
    train, score = ([c for c in read_manifest(data, s) if c.label is not None] for s in ("train", split))
    label, truth = (np.array([c.label for c in clips]) for clips in (train, score))
    told: dict[str, tuple[Change, ...]] = {
        "16 kHz studio": (studio,),
        "resampled to 8 kHz": (narrowed,),
        "resampled to 8 kHz, noise aligned": (narrowed, aligned),
    }
    hears: dict[str, Change] = {
        "16 kHz studio": studio,
        "8 kHz, resampled": narrowed,
        "telephone, resampled": resampled,
        "telephone, 8 kHz taken for 16": on_the_line,
    }
    spoken = {name: heard(score, change, f"{split}: {name}") for name, change in hears.items()}
    rows = []
    for name, changes in told.items():
        features = np.concatenate([heard(train, change, f"train: {name}") for change in changes])
        classifier = Classifier(features, np.tile(label, len(changes)), len(LABELS))
        f1 = [macro_f1(confusion_matrix(truth, classifier(x).argmax(dim=1).numpy(), len(LABELS))) for x in spoken.values()]
        rows.append([name, *(f"{x:.3f}" for x in f1)])
    show_table(f"macro-F1 of {len(score)} clips, {data}, split {split}: rows trained on, columns heard", ["", *hears], rows)


if __name__ == "__main__":
    main()
