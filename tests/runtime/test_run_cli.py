"""edgeemo-run: files of any kind, stdin, lines or JSON, and its messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import CALIBRATION, speech

pytestmark = pytest.mark.slow


def run(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "edgeemo_runtime.ops.cli", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def artifact(host_artifacts: dict[str, Path]) -> Path:
    return host_artifacts["int8"]


def test_lines_and_table(artifact: Path) -> None:
    clips = sorted((CALIBRATION / "clips").glob("sad_*.ogg"))[:3]
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
        best = {"compression_level": 0.0} if suffix == "ogg" else {}  # what Vorbis leaves out at its usual quality is heard
        soundfile.write(paths[-1], np.stack([samples, samples], axis=1), rate, **best)
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


def test_g711_and_raw_files_and_stdin_are_heard_as_what_they_are(artifact: Path, tmp_path: Path) -> None:
    call = speech(3, 6)
    soundfile.write(tmp_path / "a.wav", call, 8000, subtype="PCM_16")
    soundfile.write(tmp_path / "ulaw.wav", call, 8000, subtype="ULAW")
    for suffix, subtype in ((".pcm", "PCM_16"), (".ul", "ULAW"), (".al", "ALAW")):
        soundfile.write(tmp_path / f"b{suffix}", call, 8000, subtype=subtype, format="RAW")
    files = [tmp_path / n for n in ("a.wav", "ulaw.wav", "b.pcm", "b.ul", "b.al")]
    answers: dict[str, list[list[float]]] = {}
    for line in run(artifact, *files, "--json").stdout.splitlines():
        document = json.loads(line)
        answers.setdefault(Path(document["call"]).name, []).append(list(document["probabilities"].values()))
    assert answers["b.pcm"] == answers["a.wav"]
    assert answers["b.ul"] == answers["ulaw.wav"] != answers["a.wav"]
    assert np.abs(np.array(answers["b.al"]) - np.array(answers["a.wav"])).max() < 0.35  # eight bits a sample
    piped = run(artifact, "-", "--json", "--encoding", "mulaw", stdin=(tmp_path / "b.ul").read_bytes())
    assert [list(json.loads(x)["probabilities"].values()) for x in piped.stdout.splitlines()] == answers["b.ul"]


def test_config_and_rules(artifact: Path, tmp_path: Path) -> None:
    clip = sorted((CALIBRATION / "clips").glob("angry_*.ogg"))[0]
    (tmp_path / "run.toml").write_text('[decision]\npreset = "raw"\n')
    raw = [json.loads(x) for x in run(artifact, clip, "--json", "--config", tmp_path / "run.toml").stdout.splitlines()]
    assert all(x["smoothed"] == x["probabilities"] for x in raw)
    begun = next(i for i, x in enumerate(raw) if x["label"] is not None)
    assert 0 < begun < len(raw) / 2  # before, it is listened to
    assert all(x["label"] == max(x["probabilities"], key=x["probabilities"].get) for x in raw[begun:])
    smooth = [json.loads(x) for x in run(artifact, clip, "--json", "--rules", "in-car").stdout.splitlines()]
    assert [x["probabilities"] for x in smooth] == [x["probabilities"] for x in raw]
    assert any(x["smoothed"] != x["probabilities"] for x in smooth)
    (tmp_path / "run.toml").write_text("[engine]\nstreams = 3\n")
    wrong = run(artifact, clip, "--config", tmp_path / "run.toml")
    assert wrong.returncode == 1
    assert b"has no key streams" in wrong.stderr


def test_a_live_process_is_one_thread_follows_its_models_and_ends_when_told(
    artifact: Path, host_artifacts: dict[str, Path], tmp_path: Path
) -> None:
    models, status = tmp_path / "models", tmp_path / "status.json"
    assert run("install", artifact, "--models", models).returncode == 0
    (tmp_path / "run.toml").write_text(f'[swap]\nwatch_s = 0.0\n[metrics]\nstatus = "{status}"\n')
    clips = sorted((CALIBRATION / "clips").glob("happy_*.ogg"))[:4]
    command = [sys.executable, "-m", "edgeemo_runtime.ops.cli", models, *clips, "--real-time", "--repeat", "--json"]
    process = subprocess.Popen(
        [*map(str, command), "--config", str(tmp_path / "run.toml")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = [json.loads(process.stdout.readline()) for _ in range(8)]
    assert run("install", host_artifacts["float"], "--models", models).returncode == 0
    process.send_signal(signal.SIGHUP)
    # Loading takes as long as this machine is busy: answers are read until the new model gives one.
    answers = (json.loads(process.stdout.readline())["model"] for _ in range(4000))
    second = next((model for model in answers if model != first[0]["model"]), None)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    events = [json.loads(line) for line in log.splitlines()]
    assert [e["event"] for e in events] == ["started", "model_swapped", "stopped"]
    assert {x["model"] for x in first} == {events[0]["version"]}
    assert second == events[1]["version"]
    document = json.loads(status.read_text())
    assert document["threads"] == 1
    assert document["serving"].startswith("cosyVoice-v")


def test_a_call_on_stdin_follows_its_models_too(artifact: Path, host_artifacts: dict[str, Path], tmp_path: Path) -> None:
    models = tmp_path / "models"
    run("install", artifact, "--models", models)
    (tmp_path / "run.toml").write_text("[swap]\nwatch_s = 0.0\n")
    command = [
        sys.executable,
        "-m",
        "edgeemo_runtime.ops.cli",
        str(models),
        "-",
        "--json",
        "--config",
        str(tmp_path / "run.toml"),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    hop = np.round(speech(3, 1) * 32767).astype("<i2").tobytes()

    def answer() -> str:
        process.stdin.write(hop)  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return str(json.loads(process.stdout.readline())["model"])  # type: ignore[union-attr]

    before = answer()
    run("install", host_artifacts["float"], "--models", models)
    process.send_signal(signal.SIGHUP)
    after = [before]
    while after[-1] == before and len(after) < 200:  # it is read and tried meanwhile
        after.append(answer())
        time.sleep(0.02)
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert before != after[-1]
    assert b"model_swapped" in (process.stderr.read() if process.stderr else b"")


def test_bench_paced_and_not(artifact: Path, tmp_path: Path) -> None:
    arguments = ("bench", artifact, "--streams", "5", "--seconds", "2", "--json")
    plain = json.loads(run(*arguments).stdout)
    assert (plain["steps"], plain["dropped_hops"]) == (60, 0)
    paced = json.loads(run(*arguments, "--real-time", "--plot", tmp_path / "h.png").stdout)
    assert paced["steps"] == 65  # the last hop of each is filled up
    assert paced["latency_ms"].keys() == {"p50", "p90", "p95", "p99", "max"}
    assert (tmp_path / "h.png").read_bytes()[:4] == b"\x89PNG"
    assert run(*arguments, "--plot", tmp_path / "h.png").returncode == 1
    assert {"stolen_s", "switched_out"} <= paced.keys() - plain.keys()
    assert run("bench", artifact, "--streams", "0").returncode == 1
    assert b"priority must lie in 0..99, not 100" in run("bench", artifact, "--priority", "100").stderr


def test_openssl_stays_out(artifact: Path) -> None:
    """The check of an artifact needs SHA-256 alone, and OpenSSL would stay resident; in another's process hashlib has it."""
    script = "\n".join(
        (
            "import sys",
            "from edgeemo_runtime import Engine; from edgeemo_runtime.ops import cli",
            "sys.argv = ['edgeemo-run', *sys.argv[2:]] if sys.argv[1] == 'cli' else sys.argv",
            "cli.main() if sys.argv[0] == 'edgeemo-run' else Engine(sys.argv[2], 1)",
            "print(sys.modules.get('_hashlib') is not None)",
        )
    )
    found = []
    for way in ("cli", "engine"):
        arguments = [way, str(artifact), "--summary", str(CALIBRATION / "clips/surprise_000.flac")]
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=False, timeout=120)
        found.append(done.stdout.decode().splitlines()[-1])
    assert found == ["False", "True"]


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
    absent = "import sys; sys.modules |= dict.fromkeys(['torch', 'onnx', 'tvm', 'edgeemo', 'soundfile'])"
    code = f"{absent}\nimport edgeemo_runtime.ops.cli"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
