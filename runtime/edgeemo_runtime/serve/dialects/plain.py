"""Our own: a JSON header, then binary audio of any format that is read. docs/live-calls.md describes it."""

from __future__ import annotations

from typing import ClassVar

from edgeemo_runtime.serve.dialects.base import Dialect, MessageError, legs_of, parse_object, text_of
from edgeemo_runtime.serve.formats import parse_format


class Plain(Dialect):
    name: ClassVar[str] = "websocket"
    _legs: tuple[str, ...] = ()

    def text(self, text: str) -> None:
        message = parse_object(text)
        if self.call is not None:
            if message.get("end") is not True:
                raise MessageError('after the header only {"end": true} is understood')
            self.call.finish("ended by the client", self._legs)
            return
        if message.get("edgeemo", 1) != 1:
            raise MessageError("this server speaks version 1")
        form = parse_format(message.get("format", "s16"), message.get("rate", 8000))
        self._legs = legs_of(message.get("channels"), message.get("legs"))
        self.steps = self.steps or message.get("steps") is True
        call_id = text_of(message.get("call")) or self.new_id()
        self.call = self.session.open(call_id, self._legs, form, text_of(message.get("user")))

    def binary(self, data: bytes) -> None:
        if self.call is None:
            raise MessageError("a header comes first")
        self.audio(data, self._legs)
