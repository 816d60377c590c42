"""Messages between the front and an engine process over their socket pair: JSON by the call, arrays by the batch."""

from __future__ import annotations

import json
import socket
from typing import Any

import numpy as np

JSON, RESULTS = b"J", b"R"
MAX_MESSAGE = 1 << 17  # bytes


def result_type(labels: int) -> np.dtype:
    """One answer: whose, when, and what. ``generation`` tells a slot's calls apart; times are seconds of the call's audio."""
    return np.dtype(
        [
            ("slot", "<i4"), ("generation", "<i4"), ("start_s", "<f8"), ("end_s", "<f8"), ("waited_s", "<f4"),
            ("label", "<i2"), ("handoff", "<i2"), ("model", "<i2"), ("intensity", "S14"),
            ("probabilities", "<f4", (labels,)), ("smoothed", "<f4", (labels,)),
        ]
    )  # fmt: skip


def packed(message: dict[str, Any]) -> bytes:
    return JSON + json.dumps(message, separators=(",", ":")).encode()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection that keeps messages apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return ours, theirs
