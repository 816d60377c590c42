"""Protocols of speech recognisers, so that their clients work: where they have words, a label stands.

Vosk (alphacep/vosk-server): {"config": {"sample_rate": …}}, s16 in binary, {"eof": 1}; each message is answered once.
sherpa-onnx (online-websocket-server): float32 in binary from the first message on, "Done"; answered by segments, "Done!".
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.dialects.base import Dialect, MessageError, parse_object, text_of
from edgeemo_runtime.serve.events import Event
from edgeemo_runtime.serve.formats import Format, parse_format

VOSK_RATE, SHERPA_RATE = 8000, 16000  # Hz, where a client says none: those servers' own


class Vosk(Dialect):
    name: ClassVar[str] = "vosk"

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self._rate: object = VOSK_RATE
        self._label = ""
        self._results: list[dict[str, Any]] = []
        self._ends = False

    def text(self, text: str) -> None:
        message = parse_object(text)
        if message.get("eof"):
            if self.call is None:
                self.session.send(json.dumps({"text": ""}))
                self.session.close(1000, "eof")
                return
            self._ends = True
            self.call.finish("eof")
        elif isinstance(config := message.get("config"), dict):
            self._rate = config.get("sample_rate", self._rate)
        elif not message.get("reset"):
            raise MessageError("config, reset and eof are understood")

    def binary(self, data: bytes) -> None:
        if self.call is None:
            try:
                form = parse_format("s16", self._rate)
            except EdgeEmoError as error:
                raise MessageError(str(error)) from None
            self.call = self.session.open(self.new_id(), ["caller"], form, "")
        self.audio(data, ("caller",))
        if self._results:
            result, self._results = self._results, []
            self.session.send(json.dumps({"result": result, "text": " ".join(r["word"] for r in result)}))
        else:
            self.session.send(json.dumps({"partial": self._label}))

    def tell(self, event: Event) -> None:
        if event.type == "segment":
            data = event.data
            self._label = data["intensity"] or data["label"]
            if data["final"]:
                word = {"conf": data["confidence"], "start": data["begin_s"], "end": data["end_s"], "word": self._label}
                self._results.append(word)
        elif event.type == "end" and self._ends:
            result = self._results
            self.session.send(json.dumps({"result": result, "text": " ".join(r["word"] for r in result)}))


class SherpaOnnx(Dialect):
    name: ClassVar[str] = "sherpa"
    _number = 0

    def text(self, text: str) -> None:
        if text != "Done":
            raise MessageError("Done is understood")
        if self.call is not None:
            self.call.finish("Done")
        else:
            self.session.send("Done!")
            self.session.close(1000, "Done")

    def binary(self, data: bytes) -> None:
        if self.call is None:
            query = self.session.query
            try:
                form = parse_format(query.get("format", "f32"), query.get("rate", SHERPA_RATE))
            except EdgeEmoError as error:
                raise MessageError(str(error)) from None
            self.call = self.session.open(self.new_id(), ["caller"], Format(form.encoding, form.rate), text_of(query.get("user")))
        self.audio(data, ("caller",))

    def tell(self, event: Event) -> None:
        if event.type == "segment":
            data = event.data
            said = {"text": data["intensity"] or data["label"], "segment": self._number, "start_time": data["begin_s"]}
            said |= {"is_final": data["final"], "confidence": data["confidence"]}
            self._number += data["final"]
            self.session.send(json.dumps(said))
        elif event.type == "end":
            self.session.send("Done!")
