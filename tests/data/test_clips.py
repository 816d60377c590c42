from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from edgeemo_runtime.audio import load_audio
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import find_clips, read_manifest
from tests.conftest import CALIBRATION, SPEECH


def test_calibration_folder_is_what_its_manifest_says() -> None:
    clips = find_clips(CALIBRATION)
    assert len(clips) == 200
    counts = Counter(c.label for c in clips)
    assert set(counts) == set(range(7))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert sum(c.path.stat().st_size for c in clips) <= 3e6
    _check_files(CALIBRATION, {"CREMA-D": 172, "synthetic": 28})


def test_speech_folder_has_real_clips_of_other_speakers() -> None:
    clips = read_manifest(SPEECH, "test")
    assert set(Counter(c.label for c in clips).values()) == {50}
    assert len({c.speaker for c in clips}) == 14
    assert not {c.speaker for c in clips} & {c.speaker for c in find_clips(CALIBRATION)}
    _check_files(SPEECH, {"CREMA-D": 300})


def _check_files(folder: Path, kinds: dict[str, int]) -> None:
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert hashlib.sha256((folder / row["path"]).read_bytes()).hexdigest() == row["sha256"]
        info = soundfile.info(folder / row["path"])
        assert (info.samplerate, info.channels) == (8000, 1)
    assert {kind: sum(r["how"].startswith(kind) for r in rows) for kind in kinds} == kinds
    assert "Open Database" in (folder / "README.md").read_text()  # its notice goes with the clips


def write(path: Path, samples: np.ndarray, rate: int = 8000) -> Path:
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_any_rate_stereo_becomes_8k_mono(tmp_path: Path, rate: int) -> None:
    t = np.arange(rate) / rate
    tone = 0.4 * np.sin(2 * np.pi * 440 * t)
    audio = load_audio(write(tmp_path / "a.wav", np.stack([tone, tone], axis=1), rate), 8000)
    assert audio.dtype == np.float32
    assert abs(len(audio) - 8000) <= 1
    middle = slice(1000, 7000)
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(len(audio)) / 8000)
    assert np.abs(audio[middle] - expected[middle]).max() < 2e-3


def test_folder_without_manifest_is_sorted(tmp_path: Path) -> None:
    for name in ("b.wav", "a.flac", "sub/c.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, np.zeros(100))
    assert [c.path.name for c in find_clips(tmp_path)] == ["a.flac", "b.wav", "c.ogg"]


def test_bad_audio_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("hello")
    empty = write(tmp_path / "empty.wav", np.zeros(0))
    nan = write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.0]))
    for path, words in (
        (text, "not an audio file"),
        (empty, "no samples"),
        (nan, "sample 1 is NaN"),
        (tmp_path / "x.wav", "no such"),
    ):
        with pytest.raises(EdgeEmoError, match=words) as caught:
            load_audio(path, 8000)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("path,label7\nx.wav,angry\n", r"manifest\.csv:2: .*x\.wav is not there"),
        ("path,label7\na.wav,cross\n", "label 'cross' is none of"),
        ("file,emotion\n", "needs the columns"),
        ("path,label7\n", "lists no clip"),
    ],
)
def test_bad_manifest_is_named(tmp_path: Path, manifest: str, words: str) -> None:
    write(tmp_path / "a.wav", np.zeros(100))
    (tmp_path / "manifest.csv").write_text(manifest)
    with pytest.raises(EdgeEmoError, match=words):
        read_manifest(tmp_path)


def test_missing_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(EdgeEmoError, match="no such folder"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(EdgeEmoError, match="no audio in it"):
        find_clips(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_manifests_of_any_encoding_and_separator(tmp_path: Path, encoding: str, separator: str) -> None:
    soundfile.write(tmp_path / "müde.wav", np.zeros(800), 8000)
    rows = [("Path", " Label7 ", "speaker"), ("müde.wav", "sad", "a"), ("müde.wav", "sad", "a")]
    (tmp_path / "manifest.csv").write_bytes("\r\n".join(separator.join(r) for r in rows).encode(encoding))
    (clip,) = read_manifest(tmp_path)  # the same line twice counts once
    assert (clip.path.name, clip.label, clip.speaker) == ("müde.wav", 2, "a")


def test_a_clip_with_two_labels_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8000)
    (tmp_path / "manifest.csv").write_text("path,label7\na.wav,sad\na.wav,angry\n")
    with pytest.raises(EdgeEmoError, match=r"manifest\.csv:3: .*a\.wav is listed twice"):
        read_manifest(tmp_path)
