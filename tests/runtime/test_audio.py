"""Audio as people have it: read in blocks, whatever the header promises, whichever channel, through pipes, under any name."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
from edgeemo_runtime.audio import RAW_SUFFIXES, ArrayAudio, audio_seconds, load_audio, open_call
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.ops.stdin_audio import pipe_blocks
from hypothesis import given
from hypothesis import strategies as st

RATE = 8000
CALL = (0.3 * np.sin(np.arange(32_000) * 0.11 * (1 + 0.3 * np.sin(np.arange(32_000) / 3000)))).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


def with_size(data: bytes, size: int) -> bytes:
    """A WAV whose header says ``size`` bytes."""
    at = data.find(b"data")
    return data[:4] + struct.pack("<L", size) + data[8 : at + 4] + struct.pack("<L", size) + data[at + 8 :]


def heard(path: Path, channel: str = "mix", piece: int = 1280, raw_rate: int = RATE) -> np.ndarray:
    audio = open_call(path, RATE, raw_rate, channel)
    pieces = []
    while len(got := audio.read(piece)):
        pieces.append(got)
    return np.concatenate(pieces)


def piped(data: bytes, rate: int = RATE, encoding: str = "s16", chunk: int = 1 << 30) -> np.ndarray:
    reader, writer = os.pipe()

    def feed() -> None:
        for at in range(0, len(data), chunk):
            os.write(writer, data[at : at + chunk])
        os.close(writer)

    feeder = Thread(target=feed)
    feeder.start()
    try:
        return np.concatenate([np.zeros(0, np.float32), *pipe_blocks(reader, rate, encoding, RATE)])
    finally:
        os.close(reader)
        feeder.join()


def test_blocks_are_the_whole_file(tmp_path: Path) -> None:
    stereo = np.stack([CALL, 0.5 * CALL], axis=1)
    for rate in (8000, 16_000, 44_100):
        path = tmp_path / f"{rate}.wav"
        path.write_bytes(encoded(np.repeat(stereo, 2, axis=0) if rate == 16_000 else stereo, rate))
        np.testing.assert_allclose(heard(path), load_audio(path, RATE), atol=2e-4)
    assert audio_seconds(tmp_path / "8000.wav") == 4.0


@pytest.mark.parametrize("samples", [0, 12_345])
def test_length_where_the_header_promises_nothing(tmp_path: Path, samples: int) -> None:
    content = bytearray(encoded(CALL[:samples]))
    place = content.index(b"data") + 4
    content[place : place + 4] = bytes(4)
    path = tmp_path / "piped.wav"
    path.write_bytes(content)
    assert audio_seconds(path) == samples / RATE


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_pieces_of_any_length_make_the_same(tmp_path_factory: pytest.TempPathFactory, pieces: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "call.wav"
    path.write_bytes(encoded(CALL))
    audio, got = open_call(path, RATE, RATE), []
    for piece in pieces:
        got.append(audio.read(piece))
    together = np.concatenate(got)
    np.testing.assert_array_equal(together, load_audio(path, RATE)[: len(together)])
    assert len(together) == min(sum(pieces), len(CALL))


@pytest.mark.parametrize("size", [0, 1, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_header_s_promise_is_not_believed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(with_size(encoded(CALL), size))
    if size == 1:
        with pytest.raises(EdgeEmoError, match=r"a\.wav: holds no samples"):
            heard(path)
    else:
        assert len(heard(path)) == len(CALL)
        assert len(piped(path.read_bytes())) == len(CALL)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "ULAW"), ("WAV", "FLOAT"), ("AU", "ALAW"), ("FLAC", "PCM_16")]
)
@pytest.mark.parametrize("chunk", [1 << 30, 1000, 7])
def test_a_pipe_s_header_counts(kind: str, subtype: str, chunk: int) -> None:
    data = encoded(CALL, RATE, kind, subtype)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_array_equal(piped(data, rate=16_000, encoding="mulaw", chunk=chunk), expected)


def test_a_pipe_without_one_is_raw(tmp_path: Path) -> None:
    raw = np.round(CALL * 32767).astype("<i2").tobytes()
    np.testing.assert_allclose(piped(raw, chunk=333), CALL, atol=1e-4)
    assert len(piped(raw[:-1])) == len(CALL) - 1
    assert len(piped(b"")) == 0
    with pytest.raises(EdgeEmoError, match="this is Ogg, which cannot be read from a pipe"):
        piped(encoded(CALL, RATE, "OGG", "VORBIS"))


def test_channels(tmp_path: Path) -> None:
    path = tmp_path / "two.wav"
    path.write_bytes(encoded(np.stack([CALL, np.zeros_like(CALL)], axis=1)))
    np.testing.assert_allclose(heard(path, "left"), CALL, atol=1e-4)
    assert not heard(path, "right").any()
    np.testing.assert_allclose(heard(path), CALL / 2, atol=1e-4)
    path.write_bytes(encoded(np.stack([CALL, -CALL], axis=1)))
    assert np.square(heard(path)).mean() > 0.9 * np.square(CALL).mean()  # opposite phases are not silence
    path.write_bytes(encoded(CALL))
    with pytest.raises(EdgeEmoError, match="has one channel; --channel right"):
        heard(path, "right")


def test_float_samples_in_another_unit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "scaled.wav"
    path.write_bytes(encoded(CALL * 32768, subtype="FLOAT"))
    with pytest.raises(EdgeEmoError, match=r"scaled\.wav: has float samples of \d+"):
        heard(path)
    path.write_bytes(encoded(CALL * 5, subtype="FLOAT"))
    said: list[str] = []
    audio = open_call(path, RATE, RATE, warn=said.append)
    assert np.abs(audio.read(1 << 20)).max() == 1.0
    assert len(said) == 1 and "beyond full scale" in said[0]


@pytest.mark.parametrize("suffix", sorted(RAW_SUFFIXES))
def test_names_without_a_header(tmp_path: Path, suffix: str) -> None:
    encoding, rate = RAW_SUFFIXES[suffix]
    path = tmp_path / f"call{suffix.upper() if len(suffix) % 2 else suffix}"
    count = 2 * (rate or RATE)
    path.write_bytes(bytes(2 * count) if encoding == "s16" else b"\xff" * count)
    assert len(heard(path)) == pytest.approx(2 * RATE, abs=80)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("text.wav", b"hello", "not an audio file"),
        ("empty.wav", b"", "not an audio file"),
        ("none.pcm", b"", "holds no samples"),
        ("no.wav", None, "no such file"),
        ("no.ul", None, "cannot be read"),
        ("slow.wav", encoded(CALL[:9], 1), "says 1 Hz; rates from 1000"),
        ("nan.wav", encoded(np.array([0, np.nan, 0], np.float32), subtype="FLOAT"), "sample 1 is NaN"),
        ("esc\x1b[31m.wav", b"x", r"esc\\x1b\[31m.wav: not an audio file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # not the data: libsndfile writes the time into it
)
def test_what_cannot_be_heard_is_named(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(EdgeEmoError, match=words) as caught:
        heard(path)
    assert str(caught.value).isprintable()


@given(st.binary(max_size=300), st.sampled_from(["WAV", "FLAC", "AU"]), st.integers(0, 200))
def test_any_bytes_on_a_pipe_are_heard_or_refused(junk: bytes, kind: str, at: int) -> None:
    data = encoded(CALL[:400], RATE, kind)
    try:
        piped(data[:at] + junk + data[at:])
    except EdgeEmoError as error:
        assert str(error).isprintable()


def test_arrays_are_read_like_files() -> None:
    audio = ArrayAudio(CALL)
    assert len(audio.read(31_000)) == 31_000 and len(audio.read(31_000)) == 1000 and len(audio.read(1)) == 0
