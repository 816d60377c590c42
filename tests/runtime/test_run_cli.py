"""edgeemo-run: files of any kind, stdin, lines or JSON, and its messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import CALIBRATION, speech

pytestmark = pytest.mark.slow


def run(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "edgeemo_runtime.cli", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def artifact(host_artifacts: dict[str, Path]) -> Path:
    return host_artifacts["int8"]


def test_lines_and_table(artifact: Path) -> None:
    clips = sorted((CALIBRATION / "clips").glob("sad_00*.flac"))[:3]
    done = run(artifact, *clips)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0
    assert lines[0].startswith(str(clips[0]))
    assert "0.00-   0.16 s" in lines[0]
    assert [line.split()[0] for line in lines[-3:]] == [str(c) for c in clips]
    assert len(run(artifact, *clips, "--summary").stdout.splitlines()) == 4


def test_json_lines_from_every_rate_agree(artifact: Path, tmp_path: Path) -> None:
    import soxr

    call = speech(12, 12)
    paths = []
    for rate, suffix in ((8000, "flac"), (16000, "wav"), (44100, "ogg"), (48000, "wav")):
        samples = soxr.resample(call, 8000, rate) if rate != 8000 else call
        paths.append(tmp_path / f"{rate}.{suffix}")
        soundfile.write(paths[-1], np.stack([samples, samples], axis=1), rate)
    results: dict[str, list[np.ndarray]] = {}
    for line in run(artifact, *paths, "--json").stdout.splitlines():
        document = json.loads(line)
        results.setdefault(document["call"], []).append(np.array(list(document["probabilities"].values())))
    means = [np.mean(results[str(p)], axis=0) for p in paths]
    assert all(len(results[str(p)]) == 12 for p in paths)
    # A resampler rounds off the last hundreds of hertz under 4 kHz, which moves the highest bands.
    assert all(np.abs(m - means[0]).max() < 0.1 for m in means)
    assert all(np.abs(m - means[1]).max() < 0.04 for m in means[2:])


@pytest.mark.parametrize("rate", [8000, 16000])
def test_stdin_is_raw_pcm(artifact: Path, rate: int) -> None:
    pcm = np.round(np.resize(speech(3, 10), 10 * 1280 * rate // 8000) * 32768).astype("<i2").tobytes()
    done = run(artifact, "-", "--json", "--rate", str(rate), stdin=pcm)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 10
    assert lines[-1]["end_s"] == pytest.approx(1.6)


def test_messages(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello")
    for arguments, words in (
        ((artifact, tmp_path / "no.wav"), "no.wav: no such file"),
        ((artifact, tmp_path / "text.wav"), "text.wav: not an audio file"),
        ((tmp_path / "no.edgeemo", "a.wav"), "no.edgeemo: no such file"),
        ((artifact, "-"), "no audio on stdin"),
        ((artifact, "-", "a.wav"), "give it alone"),
        ((artifact, "a.wav", "--alpha", "3"), "alpha must lie in (0, 1]"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert words in done.stderr.decode()
        assert b"Traceback" not in done.stderr
        assert done.stdout == b""
    assert run(artifact).returncode == 2
    assert run(artifact, "a.wav", "--rate", "0").returncode == 2


def test_imports_nothing_of_the_compiler() -> None:
    """With torch, onnx, tvm and edgeemo made unimportable, it imports. (tvm_ffi takes torch along where that is installed.)"""
    code = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'onnx', 'tvm', 'edgeemo', 'soundfile']); import edgeemo_runtime.cli"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
