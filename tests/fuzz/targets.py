"""Targets of fuzzing: everything that reads what somebody else made. A target makes its input from its number alone."""

from __future__ import annotations

import io
import json
import os
import random
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from edgeemo_runtime import Engine
from edgeemo_runtime.artifact import Artifact, unchecked
from edgeemo_runtime.audio import RAW_SUFFIXES, open_call
from edgeemo_runtime.documents import read_json
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.manifest import parse_manifest
from edgeemo_runtime.members import pack, read_members
from edgeemo_runtime.ops.config import load_config
from edgeemo_runtime.ops.stdin_audio import pipe_blocks
from edgeemo_runtime.ops.top import table
from edgeemo_runtime.trust import parse_public_key, parse_signature

from tests.fuzz.mutate import damaged, damaged_document, damaged_text

ROOT = Path(__file__).parents[2]
ARTIFACT = Path(os.environ.get("ARTIFACT", ROOT / "build/emotion-host.edgeemo"))
HOP = 1280


@dataclass(frozen=True)
class Target:
    run: Callable[[int], None]
    inputs: int  # usually


TARGETS: dict[str, Target] = {}


def target(inputs: int) -> Callable[[Callable[[random.Random], None]], Callable[[random.Random], None]]:
    def add(function: Callable[[random.Random], None]) -> Callable[[random.Random], None]:
        name = function.__name__
        TARGETS[name] = Target(lambda number: function(random.Random(f"{name} {number}")), inputs)
        return function

    return add


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="edgeemo-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def file_of(data: bytes, suffix: str = "") -> Path:
    """A file with these bytes, of this process; the next one takes its place."""
    path = folder() / f"{os.getpid()}{suffix}"
    path.write_bytes(data)
    return path


@cache
def real() -> Artifact:
    return unchecked(read_members(ARTIFACT))


# -- artifacts -----------------------------------------------------------------------------------------------------------------
SMALL = pack(b'{"schema": 1}', b"lib" * 20, bytes(range(200)))


@target(250_000)
def archive(rng: random.Random) -> None:
    read_members(file_of(damaged(SMALL, rng)))


@target(120_000)
def manifest(rng: random.Random) -> None:
    parse_manifest(Path("a.edgeemo"), json.dumps(damaged_document(real().manifest, rng)).encode())


@target(80_000)
def manifest_text(rng: random.Random) -> None:
    parse_manifest(Path("a.edgeemo"), damaged(json.dumps(real().manifest).encode(), rng))


@target(6_000)
def loaded(rng: random.Random) -> None:
    """Manifest values that may pass, with the real code behind them: three steps."""
    whole = real()
    changed = dict(whole.manifest)
    for key in ("step", "stream", "states", "around"):
        if rng.random() < 0.5:
            changed[key] = damaged_document(changed[key], rng)
    weights = whole.weights if rng.random() < 0.8 else whole.weights[: rng.randrange(1, len(whole.weights))]
    found = parse_manifest(Path("a.edgeemo"), json.dumps(changed).encode())
    if found["stream"] is None:
        return
    engine = Engine(Artifact(Path("a.edgeemo"), found, "v", whole.library, weights), 2)
    call = engine.open()
    for _ in range(3):
        call.push(np.zeros(engine.samples_per_step, np.float32))
        engine.step()


# -- audio ---------------------------------------------------------------------------------------------------------------------
@cache
def sounds() -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal((800, 2))).astype(np.float32)
    made = []
    for kind, subtype, suffix in (("WAV", "PCM_16", ".wav"), ("WAV", "FLOAT", ".wav"), ("WAV", "ULAW", ".wav"),
                                  ("WAV", "IMA_ADPCM", ".wav"),
                                  ("AU", "PCM_16", ".au"), ("FLAC", "PCM_16", ".flac"), ("OGG", "VORBIS", ".ogg"),
                                  ("AIFF", "PCM_16", ".aiff"),
                                  ("WAV", "GSM610", ".wav"), ("RF64", "PCM_16", ".wav"), ("W64", "PCM_24", ".w64")):  # fmt: skip
        out = io.BytesIO()
        soundfile.write(out, samples[:, :1] if subtype == "GSM610" else samples, 8000, format=kind, subtype=subtype)
        made.append((suffix, out.getvalue()))
    return made


def read_all(audio: Any, most: int = 1 << 20) -> None:
    heard = 0
    while (count := len(audio.read(HOP))) and heard < most:
        heard += count


@target(300_000)
def audio_file(rng: random.Random) -> None:
    suffix, data = rng.choice(sounds())
    channel = rng.choice(("mix", "mix", "left", "right"))
    read_all(open_call(file_of(damaged(data, rng), suffix), 8000, rng.choice((8000, 16000)), channel))


@target(20_000)
def audio_raw(rng: random.Random) -> None:
    suffix = rng.choice(list(RAW_SUFFIXES))
    read_all(open_call(file_of(rng.randbytes(rng.randrange(3000)), suffix), 8000, rng.choice((1000, 8000, 44_100, 768_000))))


@target(80_000)
def stdin(rng: random.Random) -> None:
    data = damaged(rng.choice(sounds())[1], rng)[:60_000]  # what a pipe holds
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    try:
        heard = 0
        for block in pipe_blocks(reader, 8000, rng.choice(("s16", "mulaw", "alaw")), 8000, rng.choice(("mix", "left"))):
            heard += len(block)
            if heard > 1 << 20:
                break
    finally:
        os.close(reader)


# -- TOML, JSON and keys -------------------------------------------------------------------------------------------------------
CONFIG = """[engine]
max_streams = 80
overload = "drop-oldest"
backlog_hops = 4
budget_ms = 20.0
[audio]
gaps = "fill"
max_fill_s = 1.0
[decision]
preset = "call-centre"
alpha = 0.3
window_steps = 5
settle_decisions = 3
[swap]
carry = "replay"
watch_s = 1.0
[canary]
share = 0.05
observe = "30m"
[metrics]
port = 0
host = "127.0.0.1"
status = ""
[models]
require_signature = false
trust = ["a.pub"]
"""


@target(120_000)
def config(rng: random.Random) -> None:
    load_config(file_of(damaged_text(CONFIG, rng).encode(errors="surrogatepass"), ".toml"))


@target(1_500)
def config_engine(rng: random.Random) -> None:
    """A config that loads makes an engine that steps."""
    made = load_config(file_of(damaged_text(CONFIG, rng).encode(errors="surrogatepass"), ".toml"))
    engine = Engine(
        real(), min(made.engine.max_streams, 4), made.decision, made.audio, made.engine.overload, made.engine.backlog_hops
    )
    call = engine.open()
    for _ in range(2):
        call.push(np.zeros(HOP, np.float32))
        engine.step()


@target(60_000)
def recipe(rng: random.Random) -> None:
    from edgeemo.quantize.recipe import load_recipe

    text = 'description = "x"\nthreshold = "mse"\nactivation_qmax = 80\n[[layers]]\nmatch = "^a.*b$"\nprecision = "fp16"\n'
    load_recipe(str(file_of(damaged_text(text, rng).encode(errors="surrogatepass"), ".toml")))


@target(80_000)
def calibration(rng: random.Random) -> None:
    from edgeemo.quantize.calibration.cache import _stored
    from edgeemo.quantize.thresholds import THRESHOLDS

    thresholds = dict.fromkeys(THRESHOLDS, 1.0)
    document = {
        "model_sha256": "0",
        "data_sha256": "0",
        "clips": 3,
        "steps": 9,
        "tensors": {"t": {"largest": 1.0, "thresholds": thresholds}},
    }
    path = file_of(json.dumps(damaged_document(document, rng)).encode(), ".json")
    found = read_json(path)
    try:
        for name, entry in found["tensors"].items():
            _stored(name, entry)
        int(found["clips"]), int(found["steps"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise EdgeEmoError(str(type(error))) from error  # as read_calibration does


@target(20_000)
def status(rng: random.Random) -> None:
    counted = {
        "steps": 1,
        "jump_rate": 0.1,
        "low_confidence": 1,
        "late_share": 0.1,
        "errors": 0,
        "handoffs": {"a": 1},
        "labels": {"b": 1},
    }
    document = {"uptime_s": 1.0, "serving": "x", "canary": None, "streams": 1, "max_streams": 2, "utilisation": 0.1,
                "resident_mb": 1.0,
                "audio": {"opened": 1}, "models": {"v": counted}}  # fmt: skip
    try:
        table(read_json(file_of(json.dumps(damaged_document(document, rng)).encode(), ".json")), 1.0)
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise EdgeEmoError(str(type(error))) from error  # as top does


@target(80_000)
def keys(rng: random.Random) -> None:
    from edgeemo.signing import SecretKey, parse_secret_key, public_text, secret_text, signature_text

    key = SecretKey(b"01234567", bytes(32))
    text = rng.choice((public_text, lambda k: secret_text(k, None), lambda k: signature_text(k, b"x", "sequence:1")))(key)
    changed = damaged_text(text, rng)
    for parse in (lambda: parse_public_key(changed, "x"), lambda: parse_secret_key(changed, "x", "pw"),
                  lambda: parse_signature(changed.encode(errors="replace"), "x").sequence):  # fmt: skip
        try:
            parse()
        except EdgeEmoError as error:
            if "\n" in str(error):
                raise


# -- the engine ----------------------------------------------------------------------------------------------------------------
@cache
def engine_of(overload: str) -> Engine:
    return Engine(real(), 4, overload=overload)


ODD_SAMPLES: list[Callable[[random.Random, int], Any]] = [
    lambda r, n: np.zeros(n, np.float32), lambda r, n: np.full(n, r.choice((np.nan, np.inf, 1e30, -2)), np.float32),
    lambda r, n: np.zeros(n, np.int16), lambda r, n: np.zeros((n, 2), np.float32), lambda r, n: np.zeros(n, np.float64),
    lambda r, n: [0.0] * n, lambda r, n: "x" * n, lambda r, n: None, lambda r, n: np.zeros(2 * n, np.float32)[::2],
    lambda r, n: np.zeros(n, object), lambda r, n: [[1], [2, 3]], lambda r, n: np.float32(1), lambda r, n: b"12" * n,
    lambda r, n: np.array(["a"] * n), lambda r, n: {1: 2},
]  # fmt: skip
ODD_COUNTS: list[Any] = [None, 0, 1, -1, 2**31, 2**32, 2**32 - 1, 2**63, -(2**63) - 1, 2**200, np.uint32(5), np.int8(-1),
                         np.uint64(2**64 - 1),
                         0.5, float("nan"), "7", b"7", [1], np.array([1, 2]), np.array(3), True, 1j, object()]  # fmt: skip
ODD_TIMES: list[Any] = [None, 0, 1.5, -1e300, float("nan"), float("inf"), "1", [1], np.float32(3), 10**400, True]


@target(25_000)
def push(rng: random.Random) -> None:
    """Any samples, timestamps and times: pushed, or refused; and a good push afterwards is heard."""
    engine = engine_of(rng.choice(("refuse", "drop-oldest")))
    with warnings.catch_warnings(), engine.open() as call:
        warnings.simplefilter("ignore")
        for _ in range(rng.randrange(1, 4)):
            size = rng.choice((0, 1, 160, 1280, 6400, 20_000))
            at = rng.choice(ODD_COUNTS) if rng.random() < 0.7 else rng.getrandbits(33)
            try:
                call.push(rng.choice(ODD_SAMPLES)(rng, size), at, rng.choice(ODD_TIMES))
            except EdgeEmoError as error:
                if "\n" in str(error):
                    raise
        while len(engine.step()):
            pass
        call.push(np.zeros(HOP, np.float32))
        if not len(engine.step()):
            raise AssertionError("what is pushed after odd packets is not heard")


@target(1_000)
def engine(rng: random.Random) -> None:
    """Calls that come and go in any order answer as each does alone."""
    together = Engine(real(), 3)
    alone = [Engine(real(), 1) for _ in range(3)]
    noise = np.random.default_rng(rng.getrandbits(32))
    calls: list[Any] = [None] * 3
    for _ in range(30):
        i = rng.randrange(3)
        if calls[i] is None:
            calls[i] = together.open(), alone[i].open()
        elif rng.random() < 0.1:
            for call in calls[i]:
                call.close()
            calls[i] = None
        else:
            samples = (0.2 * noise.standard_normal(rng.choice((160, 700, 1280)))).astype(np.float32)
            for call in calls[i]:
                call.push(samples)
        if rng.random() < 0.6:
            got = {r.stream: r.probabilities for r in together.step()}
            for one, pair in zip(alone, calls, strict=True):
                for result in one.step():
                    np.testing.assert_array_equal(result.probabilities, got.pop(pair[0].id))
            if got:
                raise AssertionError("an answer that no call alone gives")
