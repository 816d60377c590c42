"""Recipes: which layer gets which precision, and whose inputs are clipped how. Data, not code: TOML files, some of them named.

observer = "mse"                 # of thresholds.py, for every layer that no rule says more of

[[layers]]
match = "^emotion_conv"          # regular expression, searched in layers' names; of several rules the last that matches counts
precision = "fp16"               # int8 (of every layer no rule names), fp16 or fp32
observer = "kl"
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.quantize.thresholds import THRESHOLDS

NAMED = Path(__file__).parent / "recipes"
PRECISIONS = ("int8", "fp16", "fp32")


@dataclass(frozen=True)
class Rule:
    """``origin`` is what a message names: the file or the option the rule came from."""

    match: str
    precision: str | None = None
    observer: str | None = None
    origin: str = "recipe"

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as error:
            raise EdgeEmoError(f"{self.origin}: {self.match!r} is not a regular expression ({error})") from error
        if self.precision is not None and self.precision not in PRECISIONS:
            raise EdgeEmoError(f"{self.origin}: {self.match!r}: precision {self.precision!r} is none of {', '.join(PRECISIONS)}")
        if self.observer is not None:
            check_observer(self.observer, self.origin)

    def matches(self, layer: str) -> bool:
        return re.search(self.match, layer) is not None


# The spectrum spans nine orders of magnitude before its logarithm: int8 would leave nothing of quiet speech.
DEFAULT_RULES = tuple(Rule(match, "fp32") for match in (r"^frontend\.", r"^log_mel\.", r"^dct$"))


@dataclass(frozen=True)
class Recipe:
    name: str = "int8-kl"
    observer: str = "kl"
    rules: tuple[Rule, ...] = ()
    description: str = ""

    def precision(self, layer: str) -> str:
        said = [r.precision for r in (*DEFAULT_RULES, *self.rules) if r.precision is not None and r.matches(layer)]
        return said[-1] if said else "int8"

    def observer_of(self, layer: str) -> str:
        said = [r.observer for r in self.rules if r.observer is not None and r.matches(layer)]
        return said[-1] if said else self.observer

    def keep(self, matches: tuple[str, ...], precision: str, origin: str) -> Recipe:
        """With layers kept in ``precision``, whatever the rules before said."""
        return replace(self, rules=(*self.rules, *(Rule(m, precision, origin=origin) for m in matches)))

    def check_all_match(self, layers: list[str]) -> None:
        """Raises EdgeEmoError for a rule that names none of ``layers``: a typing error keeps no layer in FP16."""
        for rule in self.rules:
            if not any(rule.matches(name) for name in layers):
                raise EdgeEmoError(f"{rule.origin} {rule.match}: no layer's name matches; the layers are {', '.join(layers)}")

    def to_toml(self, comment: str = "") -> str:
        """What load_recipe reads; ``comment``, line by line, above it."""
        lines = [f"# {line}" for line in comment.splitlines()]
        lines += [f"description = {_quoted(self.description)}", f"observer = {_quoted(self.observer)}"]
        for rule in self.rules:
            lines += ["", "[[layers]]", f"match = {_quoted(rule.match)}"]
            lines += [f"precision = {_quoted(rule.precision)}"] if rule.precision else []
            lines += [f"observer = {_quoted(rule.observer)}"] if rule.observer else []
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML string


def check_observer(name: str, origin: str) -> None:
    if name not in THRESHOLDS:
        raise EdgeEmoError(f"{origin}: observer {name!r} is none of {', '.join(THRESHOLDS)}")


def recipe_names() -> list[str]:
    return sorted(p.stem for p in NAMED.glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """A named recipe, or a TOML file. Raises EdgeEmoError naming the file and the key that is wrong."""
    path = NAMED / f"{name}.toml" if name in recipe_names() else Path(name)
    if not path.is_file():
        raise EdgeEmoError(f"recipe {name}: neither a file nor one of {', '.join(recipe_names())}")
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EdgeEmoError(f"{path}: not TOML ({error})") from error
    layers = values.pop("layers", [])
    observer, description = values.pop("observer", "kl"), values.pop("description", "")
    if values:
        raise EdgeEmoError(f"{path}: does not know {', '.join(values)}; a recipe has observer, description and [[layers]]")
    if not isinstance(layers, list) or not all(isinstance(entry, dict) for entry in layers):
        raise EdgeEmoError(f"{path}: layers are tables, [[layers]] each")
    check_observer(observer, str(path))
    rules = []
    for entry in layers:
        if unknown := sorted(set(entry) - {"match", "precision", "observer"}):
            raise EdgeEmoError(f"{path}: [[layers]] does not know {', '.join(unknown)}")
        if not isinstance(entry.get("match"), str) or not {"precision", "observer"} & set(entry):
            raise EdgeEmoError(f"{path}: [[layers]] needs match, and precision or observer")
        rules.append(Rule(**entry, origin=str(path)))
    return Recipe(path.stem, observer, tuple(rules), description)
