"""Asterisk's chan_websocket (20.16, 21.11, 22.6, 23.0 on): MEDIA_START as plain text or JSON, then the codec's bytes.

docs.asterisk.org, Channel Drivers, WebSocket.
"""

from __future__ import annotations

import json
from typing import ClassVar

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.dialects.base import Dialect, MessageError, parse_object, text_of
from edgeemo_runtime.serve.formats import Format, parse_format

SLIN = {"slin": 8000, **{f"slin{khz}": khz * 1000 for khz in (12, 16, 24, 32, 48, 96, 192)}, "slin44": 44100}


def parse_start(text: str) -> dict[str, str]:
    """The parameters of MEDIA_START, either way. Raises MessageError."""
    if text.startswith("MEDIA_START"):
        pairs = (word.partition(":") for word in text.split()[1:])
        return {key: value for key, _, value in pairs}
    message = parse_object(text)
    if message.get("event") != "MEDIA_START":
        raise MessageError("MEDIA_START comes first")
    return {key: text_of(value) for key, value in message.items() if isinstance(key, str)}


class ChanWebSocket(Dialect):
    name: ClassVar[str] = "chan_websocket"
    answers: ClassVar[bool] = False
    _json = False

    def text(self, text: str) -> None:
        if self.call is not None:
            return  # what the channel tells of its queue and of DTMF
        self._json = text.startswith("{")
        start = parse_start(text)
        name = start.get("format", "")
        try:
            form = Format("s16", SLIN[name]) if name in SLIN else parse_format(name, 8000)
        except EdgeEmoError as error:
            raise MessageError(str(error)) from None
        ids = (self.session.query.get("call"), start.get("channel_id"), start.get("connection_id"))
        self.call = self.session.open(
            next((i for i in ids if i), "") or self.new_id(), ["caller"], form, start.get("channel", "")
        )

    def binary(self, data: bytes) -> None:
        if self.call is None:
            raise MessageError("MEDIA_START comes first")
        self.audio(data, ("caller",))

    def _command(self, command: str) -> None:
        self.session.send(json.dumps({"command": command}) if self._json else command)

    def refused(self, code: str, reason: str) -> None:
        self._command("HANGUP")
        self.session.close(1013, code)
