from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import Clip, find_clips
from edgeemo.quantize.calibration.checks import refuse_test_speakers, warnings
from tests.conftest import CALIBRATION


def write(path: Path, audio: np.ndarray, rate: int = 8000) -> Clip:
    soundfile.write(path, audio, rate, subtype="FLOAT")
    return Clip(path, 0)


def noise(level: float, seconds: float = 2.0, rate: int = 8000) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(int(seconds * rate)) * level).astype(np.float32)


@pytest.mark.slow
def test_the_committed_clips_are_fit() -> None:
    assert warnings(find_clips(CALIBRATION), 8000) == []


def test_what_is_wrong_is_said_and_named(tmp_path: Path) -> None:
    clips = [
        write(tmp_path / "silent.wav", np.zeros(16000)),
        write(tmp_path / "loud.wav", np.clip(noise(1.0), -1, 1)),
        write(tmp_path / "narrow.wav", noise(0.1, rate=4000), 4000),
        write(tmp_path / "wide.wav", noise(0.1, rate=44100), 44100),
    ]
    said = " | ".join(warnings(clips, 8000))
    for words in (
        "few: 4 clips of 8 s",
        "silent: ",
        "clipped: ",
        "wrong rate: ",
        "other rate: ",
        "one class: every clip is angry",
    ):
        assert words in said
    for clip in clips:
        assert str(clip.path) in said


def test_clips_without_labels_are_no_single_class(tmp_path: Path) -> None:
    clips = [replace(write(tmp_path / f"{i}.wav", noise(0.1)), label=None) for i in range(3)]
    assert not any("class" in s for s in warnings(clips, 8000))


def test_speakers_of_the_test_split_are_refused() -> None:
    train, same, test = (Clip(Path(n), 0, split, "", speaker) for n, split, speaker in
                         (("a", "train", "anna"), ("b", "train", "ben"), ("c", "test", "ben")))  # fmt: skip
    refuse_test_speakers([train], [train, same, test])
    with pytest.raises(EdgeEmoError, match="speakers ben of the calibration clips are in the manifest's test split"):
        refuse_test_speakers([train, same], [train, same, test])
    with pytest.raises(EdgeEmoError, match=r"c: is one of 1 calibration clips .* --calib-split train"):
        refuse_test_speakers([train, test], [train, test])
