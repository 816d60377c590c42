"""Dialects of telephone systems and programs over a WebSocket: one dialect a module, told apart by the first message.

A new one: a module with a subclass of Dialect, its name in TABLE, and what it begins with in ``by_text`` or ``by_upgrade``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgeemo_runtime.serve.dialects.audio_fork import AudioFork
from edgeemo_runtime.serve.dialects.audiohook import AudioHook
from edgeemo_runtime.serve.dialects.base import Dialect, MessageError
from edgeemo_runtime.serve.dialects.chan_websocket import ChanWebSocket
from edgeemo_runtime.serve.dialects.plain import Plain
from edgeemo_runtime.serve.dialects.speech_servers import SherpaOnnx, Vosk
from edgeemo_runtime.serve.dialects.twilio import Twilio
from edgeemo_runtime.serve.dialects.vonage import Vonage

__all__ = ["SUBPROTOCOLS", "TABLE", "Dialect", "MessageError", "by_text", "by_upgrade"]

TABLE: dict[str, type[Dialect]] = {
    d.name: d for d in (Plain, Twilio, ChanWebSocket, AudioFork, AudioHook, Vosk, SherpaOnnx, Vonage)
}
SUBPROTOCOLS = ("audio.drachtio.org", "audiostream.drachtio.org", "media")  # FreeSWITCH's, and chan_websocket's


def by_upgrade(query: Mapping[str, str], headers: Mapping[str, str], subprotocols: Sequence[str]) -> type[Dialect] | None:
    """The dialect that a request for a WebSocket says itself: ``?dialect=``, a sub-protocol, or AudioHook's headers. Raises
    MessageError for a name that there is not."""
    if (name := query.get("dialect")) is not None:
        if name not in TABLE:
            raise MessageError(f"no dialect of that name; there are {', '.join(TABLE)}")
        return TABLE[name]
    if any(s.endswith(".drachtio.org") for s in subprotocols):
        return AudioFork
    return AudioHook if "audiohook-session-id" in {k.lower() for k in headers} else None


def by_text(text: str) -> type[Dialect]:
    """The dialect of a first message of text. Raises MessageError for one that no dialect begins with."""
    if text.startswith("MEDIA_START"):
        return ChanWebSocket
    try:
        message: Any = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if isinstance(message, dict):
        match message:
            case {"event": "MEDIA_START"}:
                return ChanWebSocket
            case {"event": "websocket:connected"}:
                return Vonage
            case {"event": "connected" | "start"}:
                return Twilio
            case {"version": "2", "type": _, "parameters": _}:
                return AudioHook
            case {"config": dict()}:
                return Vosk
            case {"edgeemo": _} | {"format": _} | {"rate": _}:
                return Plain
    raise MessageError("the first message is of no dialect that is known; docs/live-calls.md has them")
