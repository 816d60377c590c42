"""Checks of a set of calibration clips before thresholds are found on them: refusals and warnings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soundfile
from edgeemo_runtime.audio import load_audio
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import Clip
from edgeemo.model.config import LABELS

FEW_CLIPS, FEW_SECONDS = 32, 30.0  # below them thresholds still move: docs/quantization.md
SILENT = 10 ** (-60 / 20)  # largest magnitude of a clip with nothing in it
FULL_SCALE, CLIPPED = 0.999, 1e-3  # a clip is clipped where more than this share of its samples is at full scale


def refuse_test_speakers(clips: Sequence[Clip], listed: Sequence[Clip]) -> None:
    """Raises EdgeEmoError where ``clips`` are of the test split of ``listed`` (the whole manifest), or share a speaker with it:
    thresholds found on what is scored later flatter the score."""
    if of_test := [c for c in clips if c.split == "test"]:
        raise EdgeEmoError(
            f"{of_test[0].path}: is one of {len(of_test)} calibration clips of the manifest's test split, "
            "which is for scoring; --calib-split train leaves it out"
        )
    tested = {c.speaker for c in listed if c.split == "test" and c.speaker}
    if shared := sorted({c.speaker for c in clips} & tested):
        some = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
        raise EdgeEmoError(f"speakers {some} of the calibration clips are in the manifest's test split; leave their clips out")


def warnings(clips: Sequence[Clip], sample_rate: int) -> list[str]:
    """Warnings about ``clips``, a sentence each; none where nothing is odd. ``sample_rate``: the model's, Hz."""
    silent: list[Clip] = []
    clipped: list[Clip] = []
    rates: dict[int, list[Clip]] = {}
    seconds = 0.0
    for clip in clips:
        audio = np.abs(load_audio(clip.path, sample_rate))
        seconds += len(audio) / sample_rate
        if audio.size == 0 or audio.max() < SILENT:
            silent.append(clip)
        elif (audio >= FULL_SCALE).mean() > CLIPPED:
            clipped.append(clip)
        rates.setdefault(soundfile.info(str(clip.path)).samplerate, []).append(clip)
    said = []
    if len(clips) < FEW_CLIPS or seconds < FEW_SECONDS:
        said.append(
            f"few: {len(clips)} clips of {seconds:.0f} s in all; {FEW_CLIPS} and {FEW_SECONDS:.0f} s are the least to trust"
        )
    if silent:
        said.append(f"silent: {_some(silent)}; they say nothing of speech")
    if clipped:
        said.append(f"clipped: {_some(clipped)}; recorded too loud, activations are larger than calls give")
    for rate, found in sorted(rates.items()):
        if rate < sample_rate:
            said.append(f"wrong rate: {_some(found)} at {rate} Hz; the upper band that {sample_rate} Hz would have is missing")
        elif rate > sample_rate:
            said.append(f"other rate: {_some(found)} at {rate} Hz, resampled to {sample_rate}; calls have 300-3400 Hz of it")
    labels = {c.label for c in clips if c.label is not None}
    if len(clips) > 1 and len(labels) == 1 and all(c.label is not None for c in clips):
        said.append(f"one class: every clip is {LABELS[labels.pop()]}; the others' activations are not seen")
    return said


def _some(clips: list[Clip]) -> str:
    return str(clips[0].path) if len(clips) == 1 else f"{clips[0].path} and {len(clips) - 1} more"
