"""Damage: bytes, text and documents that are almost right."""

from __future__ import annotations

import copy
import random
from typing import Any

ODD_TEXT = [
    "",
    "\0",
    "\x1b[31m",
    "\ud800",
    "a" * 5000,
    "[/x]",
    "$\\frac{$",
    "../../x",
    "nan",
    "-1",
    "9" * 400,
    "{",
    "[[",
    '"',
    "#",
]
ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, 2**70, -(2**70), 0.5, float("nan"), float("inf"), 1e308]
ODD_VALUES: list[Any] = [
    *ODD_NUMBERS,
    None,
    True,
    "",
    "x",
    [],
    {},
    [[]],
    {"x": 1},
    "\0",
    "\x1b[1m",
    "a" * 300,
    [1, 2],
    ["a", "a"],
]
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, doubled, put in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        what = rng.randrange(6)
        if what == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1 and at < len(out):
            out[at] = rng.choice(INTERESTING)
        elif what == 2:
            size = rng.choice((2, 4, 8))
            out[at : at + size] = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, rng.getrandbits(32))).to_bytes(8, "little")[:size]
        elif what == 3:
            del out[at : at + rng.randrange(1, 64)]
        elif what == 4:
            out[at:at] = bytes(rng.choice(INTERESTING) for _ in range(rng.randrange(1, 32)))
        elif len(out) > 8:
            other = rng.randrange(len(out))
            out[at:at] = out[other : other + rng.randrange(1, 128)]
    return bytes(out[: rng.randrange(len(out) + 1)] if rng.random() < 0.1 else out)


def damaged_text(text: str, rng: random.Random) -> str:
    """Lines dropped, doubled, swapped; values of another kind; odd characters."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines) or 1)
        what = rng.randrange(6)
        if not lines:
            lines = [rng.choice(ODD_TEXT)]
        elif what == 0:
            del lines[at]
        elif what == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif what == 2 and "=" in lines[at]:
            key = lines[at].partition("=")[0]
            lines[at] = f"{key}= {rng.choice((*ODD_TEXT, '1', 'true', '[]', '1e400', '99999999999999999999', '[1]', '{a = 1}'))}"
        elif what == 3:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(ODD_TEXT) + lines[at][place:]
        elif what == 4:
            lines[at] = rng.choice(("[", "(", "{", "[[x]]", "a=")) * rng.choice((1, 50, 3000))
        else:
            lines[at] = damaged(lines[at].encode(errors="replace"), rng).decode(errors="replace")
    return "\n".join(lines)


def damaged_document(document: Any, rng: random.Random) -> Any:
    """A JSON document with values of another kind, or keys missing or new."""
    out = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place, key = None, None
        value = out
        while isinstance(value, dict | list) and value and (place is None or rng.random() < 0.8):
            place, key = value, rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
            value = place[key]
        if place is None:
            return rng.choice(ODD_VALUES)
        what = rng.randrange(4)
        if what == 0 and isinstance(place, dict):
            del place[key]
        elif what == 1 and isinstance(place, list):
            place.append(rng.choice(ODD_VALUES))
        elif what == 2 and isinstance(value, int):
            place[key] = value + rng.choice((-1, 1, 64, -64, 2**20, 2**40, -(2**40)))
        else:
            place[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return out
