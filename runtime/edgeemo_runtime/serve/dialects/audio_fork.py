"""FreeSWITCH's mod_audio_fork and mod_audio_stream: a line of metadata where there is any, then L16 of one or two channels.

Neither says rate and channels on the wire, so the metadata or the address does: `uuid_audio_fork UUID start
ws://host:8081/?call=UUID&rate=16000&channels=2 stereo 16k {...}`.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, ClassVar

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.dialects.base import Dialect, MessageError, legs_of, text_of
from edgeemo_runtime.serve.formats import parse_format


class AudioFork(Dialect):
    name: ClassVar[str] = "audio_fork"
    _legs: tuple[str, ...] = ()

    def text(self, text: str) -> None:
        if self.call is not None:
            return  # what was said on this channel with uuid_audio_fork send_text
        metadata: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            metadata = json.loads(text)
        self._open(metadata if isinstance(metadata, dict) else {})

    def binary(self, data: bytes) -> None:
        if self.call is None:
            self._open({})
        self.audio(data, self._legs)

    def _open(self, metadata: dict[str, Any]) -> None:
        said = {**metadata, **self.session.query}
        rate = said.get("rate", said.get("sampleRate", 8000))
        try:
            form = parse_format("s16", {"8k": 8000, "16k": 16000}.get(str(rate), rate))
        except EdgeEmoError as error:
            raise MessageError(str(error)) from None
        channels = {"mono": 1, "mixed": 1, "stereo": 2, "1": 1, "2": 2}.get(str(said.get("channels", said.get("mix", 1))), 0)
        self._legs = legs_of(channels)
        call_id = next((text_of(said[k]) for k in ("call", "uuid", "callId", "call_id", "sessionId") if text_of(said.get(k))), "")
        self.call = self.session.open(call_id or self.new_id(), self._legs, form, text_of(said.get("user")))
