"""AudioSocket frames and RTP packets: whole, split anywhere, or garbage."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from edgeemo_runtime import EdgeEmoError, g711
from edgeemo_runtime.serve.audiosocket import AudioSocketFrames
from edgeemo_runtime.serve.formats import Format, decode, parse_format, split_channels
from edgeemo_runtime.serve.load.clients import mulaw_bytes
from edgeemo_runtime.serve.rtp import parse_packet
from hypothesis import given
from hypothesis import strategies as st


@given(frames=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=400)), max_size=20), data=st.data())
def test_frames_are_the_same_however_tcp_cuts_them(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(bytes([kind]) + struct.pack(">H", len(payload)) + payload for kind, payload in frames)
    found, parser, at = [], AudioSocketFrames(), 0
    while at < len(stream):
        size = data.draw(st.integers(1, 300))
        found += parser.feed(stream[at : at + size])
        at += size
    assert found == frames


def test_an_rtp_packet_as_rfc_3550_draws_it() -> None:
    """Version 2, padding, extension, two contributing sources, marker; PCMU; all of it counted out by hand."""
    head = bytes.fromhex("b280 0102 00000a00 deadbeef".replace(" ", ""))
    sources, extension = bytes(8), bytes.fromhex("bede0001 01020304".replace(" ", ""))
    packet = parse_packet(head + sources + extension + b"\x55" * 160 + b"\0\0\0\4")
    assert packet is not None
    assert (packet.payload_type, packet.number, packet.timestamp, packet.ssrc) == (0, 258, 2560, 0xDEADBEEF)
    assert packet.payload == b"\x55" * 160


@given(st.binary(max_size=80))
def test_any_datagram_is_a_packet_or_none(data: bytes) -> None:
    packet = parse_packet(data)
    assert packet is None or len(packet.payload) <= len(data) - 12


def test_formats_are_decoded_as_they_are_defined() -> None:
    values = np.array([0, 1, -1, 32767, -32768, 12345], dtype=np.int16)
    expected = values.astype(np.float32) / 32768
    np.testing.assert_array_equal(decode(values.astype("<i2").tobytes(), "s16"), expected)
    np.testing.assert_array_equal(decode(values.astype(">i2").tobytes(), "s16be"), expected)
    np.testing.assert_array_equal(decode(expected.astype("<f4").tobytes(), "f32"), expected)
    odd = np.array([np.nan, np.inf, -np.inf, 3.0, -3.0], dtype="<f4")
    np.testing.assert_array_equal(decode(odd.tobytes(), "f32"), np.array([0, 1, -1, 1, -1], dtype=np.float32))
    assert decode(b"\xff\x00", "mulaw").tolist() == [0.0, -32124 / 32768]


@given(st.binary(min_size=1, max_size=300), st.sampled_from((1, 2, 4)), st.integers(1, 3))
def test_channels_are_taken_apart(data: bytes, width: int, channels: int) -> None:
    frames = [
        data[i : i + width * channels] for i in range(0, len(data) // (width * channels) * width * channels, width * channels)
    ]
    expected = [b"".join(f[c * width : (c + 1) * width] for f in frames) for c in range(channels)]
    assert split_channels(data, width, channels) == expected


def test_names_of_formats() -> None:
    assert parse_format("audio/x-mulaw", "8000") == Format("mulaw", 8000)
    assert parse_format("PCMA", 8000.0) == Format("alaw", 8000)
    for wrong in (("opus", 48000), ("s16", 10), ("s16", True), ("s16", None), (None, 8000), ("s16", "8e3"), ("s16", [8000])):
        with pytest.raises(EdgeEmoError):
            parse_format(*wrong)


def test_the_load_generators_mulaw_is_the_nearest() -> None:
    samples = np.arange(-32768, 32768, 7).astype(np.int16)
    back = g711.decode(mulaw_bytes(samples), "mulaw").astype(int)
    nearest = np.abs(samples.astype(int)[:, None] - np.unique(g711.MULAW).astype(int)[None]).min(axis=1)
    np.testing.assert_array_equal(np.abs(back - samples), nearest)
