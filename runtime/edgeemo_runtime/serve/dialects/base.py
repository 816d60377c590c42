"""Base of every dialect."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from edgeemo_runtime.serve.calls import Call
from edgeemo_runtime.serve.events import Event
from edgeemo_runtime.serve.formats import Format, split_channels

LEGS = ("caller", "agent")


class MessageError(Exception):
    """A message that a dialect does not allow. Its text goes to the client; the connection ends."""


class Session(Protocol):
    """Interface of a connection as its dialect uses it (websocket.py)."""

    query: dict[str, str]
    headers: Any

    def open(self, call_id: str, legs: Sequence[str], form: Format, user: str = "") -> Call: ...
    def send(self, text: str) -> None: ...
    def close(self, code: int, reason: str) -> None: ...


class Dialect:
    """One connection's. ``text`` and ``binary`` take its messages, ``tell`` the events of its call; where ``answers`` is false,
    events go back only if the client asked for them (``?results=1``), since its own protocol has no place for them."""

    name: ClassVar[str] = ""
    answers: ClassVar[bool] = True
    steps = False  # whether each step is wanted

    def __init__(self, session: Session) -> None:
        self.session = session
        self.call: Call | None = None
        self._left = b""
        self.steps = session.query.get("steps") in ("1", "true")
        self._wanted = self.answers or session.query.get("results") in ("1", "true")

    def text(self, text: str) -> None:
        raise MessageError("no text is understood here")

    def binary(self, data: bytes) -> None:
        raise MessageError("no binary message is understood here")

    def tell(self, event: Event) -> None:
        if self._wanted and (event.type != "step" or self.steps):
            self.session.send(event.text)

    def refused(self, code: str, reason: str) -> None:
        """A call was not taken: says so in the dialect's own way. 1013 is "try again later" (RFC 6455's registry)."""
        self.session.send(json.dumps({"v": 1, "type": "refused", "code": code, "reason": reason}))
        self.session.close(1013, code)

    def hang_up(self, reason: str) -> None:
        """The server ends the call."""
        self.session.close(1001, reason)

    def new_id(self) -> str:
        return self.session.query.get("call") or str(uuid.uuid4())

    def audio(self, data: bytes, legs: Sequence[str]) -> None:
        """Interleaved samples of as many channels as there are legs."""
        assert self.call is not None
        if len(legs) == 1:
            self.call.feed(legs[0], data)
            return
        data = self._left + data  # a message may end within a frame
        whole = len(data) - len(data) % (self.call.form.width * len(legs))
        self._left, data = data[whole:], data[:whole]
        for leg, part in zip(legs, split_channels(data, self.call.form.width, len(legs)), strict=True):
            self.call.feed(leg, part)


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises MessageError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError("not JSON") from None
    if not isinstance(found, dict):
        raise MessageError("not a JSON object")
    return found


def text_of(value: object, longest: int = 256) -> str:
    """A string that somebody sent for a name; numbers as they are written, anything else as nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value)[:longest]


def legs_of(channels: object, named: object = None) -> tuple[str, ...]:
    """Legs of one or two channels, by their names where there are any. Raises MessageError."""
    if isinstance(named, str):
        named = [named]
    if named is not None:
        if (
            not isinstance(named, list)
            or not 1 <= len(named) <= 2
            or len(set(map(str, named))) < len(named)
            or not set(map(str, named)) <= set(LEGS)
        ):
            raise MessageError(f"legs are one or two of {', '.join(LEGS)}")
        if channels is not None and channels != len(named):
            raise MessageError("as many legs as channels")
        return tuple(map(str, named))
    if channels is None:
        return LEGS[:1]
    if isinstance(channels, bool) or channels not in (1, 2):
        raise MessageError("channels are 1 or 2")
    return LEGS[: int(channels)]
