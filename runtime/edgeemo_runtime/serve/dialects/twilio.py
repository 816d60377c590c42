"""Twilio's media streams and what resembles them (SignalWire, Telnyx, Plivo, Exotel): JSON with base64 audio.

connected, start (ids, tracks, format), media (track, chunk, timestamp, payload), dtmf, mark, stop; names in camel or snake case.
Telnyx does not keep order: packets are put in order by their chunk. https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from typing import Any, ClassVar

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.dialects.base import Dialect, MessageError, text_of
from edgeemo_runtime.serve.formats import Format, parse_format
from edgeemo_runtime.serve.reorder import Reorder

TRACKS = {"inbound": "caller", "outbound": "agent", "inbound_track": "caller", "outbound_track": "agent"}
HOLD_S = 0.06  # that unordered packets wait
IGNORED = ("connected", "dtmf", "mark", "clear", "playedStream", "clearedAudio")
CALL_IDS = (
    "callSid",
    "call_sid",
    "call_control_id",
    "callId",
    "call_session_id",
    "streamSid",
    "stream_sid",
    "stream_id",
    "streamId",
)


def parse_start(message: dict[str, Any]) -> tuple[str, tuple[str, ...], Format, str, bool]:
    """(call id, legs, format, user, unordered) of a start message. Raises MessageError."""
    start = message.get("start")
    if not isinstance(start, dict):
        raise MessageError("start without its parameters")
    found = start.get("mediaFormat", start.get("media_format"))
    if found is not None and not isinstance(found, dict):
        raise MessageError("a media format is an object")
    found = found or {}
    try:
        form = parse_format(found.get("encoding", "audio/x-mulaw"), found.get("sampleRate", found.get("sample_rate", 8000)))
    except EdgeEmoError as error:
        raise MessageError(str(error)) from None
    tracks = start.get("tracks", ["inbound"])
    both = tracks == "both_tracks"
    tracks = ["inbound", "outbound"] if both else [tracks] if isinstance(tracks, str) else tracks
    if not isinstance(tracks, list) or not 1 <= len(tracks) <= 2 or not all(isinstance(t, str) and t in TRACKS for t in tracks):
        raise MessageError("tracks are inbound, outbound or both")
    ids = {**message, **start}
    call_id = next((text_of(ids[k]) for k in CALL_IDS if text_of(ids.get(k))), "")
    parameters = start.get("customParameters", start.get("custom_parameters"))
    user = text_of(parameters.get("user")) if isinstance(parameters, dict) else ""
    return (
        call_id,
        tuple(dict.fromkeys(TRACKS[t] for t in tracks)),
        form,
        user or text_of(start.get("from")),
        "stream_id" in message,
    )


class Twilio(Dialect):
    name: ClassVar[str] = "twilio"
    answers: ClassVar[bool] = False

    def text(self, text: str) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            raise MessageError("not JSON") from None
        event = message.get("event") if isinstance(message, dict) else None
        if event == "media":
            self._media(message.get("media"))
        elif event == "start" and self.call is None:
            call_id, legs, form, user, unordered = parse_start(message)
            self._orders = {leg: Reorder(HOLD_S) for leg in legs} if unordered else {}
            self.call = self.session.open(self.session.query.get("call") or call_id or self.new_id(), legs, form, user)
        elif event == "stop" and self.call is not None:
            self._flush()
            self.call.finish("stop")
        elif event not in IGNORED:
            raise MessageError("an event that is not understood here")

    def _media(self, media: object) -> None:
        call = self.call
        if call is None or not isinstance(media, dict):
            raise MessageError("media before start, or without its parameters")
        track = media.get("track", "inbound")
        leg = TRACKS.get(track) if isinstance(track, str) else None
        try:
            payload = base64.b64decode(media["payload"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError):
            raise MessageError("a payload is base64") from None
        if leg not in call.legs:
            return  # a track that was not announced
        if not self._orders:
            call.feed(leg, payload)
            return
        chunk = text_of(media.get("chunk"))
        if not chunk.isascii() or not chunk.isdigit():
            raise MessageError("a chunk is a number")
        for part in self._orders[leg].push(int(chunk) % (1 << 16), payload, time.monotonic()):
            call.feed(leg, part)  # type: ignore[arg-type]  # what was pushed
        if self._orders[leg].waits:
            asyncio.get_running_loop().call_later(HOLD_S, self._overdue)

    def _overdue(self, now: float | None = None) -> None:
        for leg, order in self._orders.items():
            for part in order.overdue(time.monotonic() if now is None else now):
                if self.call is not None:
                    self.call.write(leg, part)  # type: ignore[arg-type]

    def _flush(self) -> None:
        self._overdue(float("inf"))

    def refused(self, code: str, reason: str) -> None:
        self.session.close(1013, code)
