"""Vonage's WebSocket endpoint: {"event": "websocket:connected", "content-type": "audio/l16;rate=16000"}, then L16."""

from __future__ import annotations

import re
from typing import ClassVar

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.dialects.base import Dialect, MessageError, parse_object, text_of
from edgeemo_runtime.serve.formats import Format


class Vonage(Dialect):
    name: ClassVar[str] = "vonage"
    answers: ClassVar[bool] = False

    def text(self, text: str) -> None:
        message = parse_object(text)
        if self.call is not None:
            return  # DTMF and notices
        kind = re.fullmatch(r"audio/l16;\s*rate=(\d{4,6})", text_of(message.get("content-type")).lower())
        if kind is None:
            raise MessageError("the content type is audio/l16 with a rate")
        try:
            form = Format("s16", int(kind[1]))
        except EdgeEmoError as error:
            raise MessageError(str(error)) from None
        call_id = next((text_of(message[k]) for k in ("call", "uuid", "conversation_uuid") if text_of(message.get(k))), "")
        self.call = self.session.open(call_id or self.new_id(), ["caller"], form, text_of(message.get("user")))

    def binary(self, data: bytes) -> None:
        if self.call is None:
            raise MessageError("websocket:connected comes first")
        self.audio(data, ("caller",))
