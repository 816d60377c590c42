"""Genesys AudioHook, version 2: JSON transactions with numbered messages, audio in binary, channels interleaved.

https://developer.genesys.cloud/devapps/audiohook (open, close, ping, pause, resume, discarded, update, event entities).
"""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.dialects.base import LEGS, Dialect, MessageError, parse_object, text_of
from edgeemo_runtime.serve.events import Event
from edgeemo_runtime.serve.formats import Format, parse_format

CHANNELS = {"external": LEGS[0], "internal": LEGS[1]}
PROBE = "00000000-0000-0000-0000-000000000000"  # the conversation of a client that only tries the connection
POSITION = re.compile(r"PT(\d{1,9}(?:\.\d{1,9})?)S", re.ASCII)


def choose_media(offers: object) -> tuple[dict[str, Any], tuple[str, ...], Format]:
    """The offer that is taken, its legs and format: the one with most channels. Raises MessageError where none fits."""
    best: tuple[dict[str, Any], tuple[str, ...], Format] | None = None
    for offer in offers if isinstance(offers, list) else []:
        if not isinstance(offer, dict) or offer.get("type") != "audio" or not isinstance(offer.get("channels"), list):
            continue
        channels = offer["channels"]
        if not 1 <= len(channels) <= 2 or not all(isinstance(c, str) and c in CHANNELS for c in channels):
            continue
        legs = tuple(CHANNELS[c] for c in channels)
        try:
            form = parse_format(offer.get("format"), offer.get("rate"))
        except EdgeEmoError:
            continue
        if len(set(legs)) == len(legs) and (best is None or len(legs) > len(best[1])):
            best = offer, legs, form
    if best is None:
        raise MessageError("none of the media that are offered can be taken")
    return best


class AudioHook(Dialect):
    name: ClassVar[str] = "audiohook"

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self._id = ""
        self._sent = self._heard = 0
        self._legs: tuple[str, ...] = ()
        self._state = "new"  # open, paused, closing
        self._probe = False

    def _say(self, type_: str, parameters: dict[str, Any]) -> None:
        self._sent += 1
        message = {
            "version": "2", "type": type_, "id": self._id, "seq": self._sent, "clientseq": self._heard, "parameters": parameters
        }  # fmt: skip
        self.session.send(json.dumps(message))

    def text(self, text: str) -> None:
        message = parse_object(text)
        parameters, number = message.get("parameters"), message.get("seq")
        if message.get("version") != "2" or not isinstance(parameters, dict) or number != self._heard + 1:
            raise MessageError("no message of version 2, or not the next one")
        self._heard = number
        if self._id and message.get("id") != self._id:
            raise MessageError("another session's id")
        self._id = text_of(message.get("id"))
        kind = message.get("type")
        if kind == "open" and self._state == "new":
            self._open(parameters)
        elif kind == "ping":
            self._say("pong", {})
        elif self._state == "new":
            raise MessageError("open comes first")
        elif kind == "close":
            self._close()
        elif kind in ("paused", "resumed", "discarded"):
            self._paused(kind, parameters)
        elif kind == "update":
            self._say("updated", {})
        elif kind != "error":
            raise MessageError("a message that is not understood")

    def _open(self, parameters: dict[str, Any]) -> None:
        organization = self.session.headers.get("Audiohook-Organization-Id")
        if organization is not None and organization != parameters.get("organizationId"):
            self._say("disconnect", {"reason": "unauthorized", "info": "another organisation's headers"})
            return
        conversation = text_of(parameters.get("conversationId"))
        if conversation == PROBE:
            self._state, self._probe = "open", True
            self._say("opened", {"media": []})
            return
        media, self._legs, form = choose_media(parameters.get("media"))
        participant = parameters.get("participant")
        user = text_of(participant.get("ani")) if isinstance(participant, dict) else ""
        self.call = self.session.open(conversation or self._id, self._legs, form, user)
        self._state = "open"
        self._say("opened", {"media": [media]})

    def _close(self) -> None:
        self._state = "closing"
        if self.call is not None:
            self.call.finish("close")
        else:
            self._say("closed", {})

    def _paused(self, kind: str, parameters: dict[str, Any]) -> None:
        """Audio that was left out: the legs' count goes on behind it."""
        self._state = "paused" if kind == "paused" else "open"
        found = POSITION.fullmatch(text_of(parameters.get("discarded")))
        if found is None or self.call is None:
            return
        seconds = min(float(found[1]), 3600.0)
        for leg in self._legs:
            self.call.skip(leg, round(seconds * self.call.form.rate))

    def binary(self, data: bytes) -> None:
        if self.call is None or self._state not in ("open", "paused"):
            if self._probe:
                return
            raise MessageError("audio before open")
        self.audio(data, self._legs)

    def tell(self, event: Event) -> None:
        if event.type == "begin" or (event.type == "step" and not self.steps):
            return
        if event.type == "end" and self._state == "closing":
            self._say("event", {"entities": [{"type": "edgeemo", "data": event.data}]})
            self._say("closed", {})
            return
        self._say("event", {"entities": [{"type": "edgeemo", "data": event.data}]})

    def refused(self, code: str, reason: str) -> None:
        self._say("disconnect", {"reason": "error", "info": reason})

    def hang_up(self, reason: str) -> None:
        self._say("disconnect", {"reason": "completed", "info": reason})
        super().hang_up(reason)
