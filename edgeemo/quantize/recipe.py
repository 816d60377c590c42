"""Recipes: which layer gets which precision, and whose inputs are clipped how. Data, not code: TOML files, some of them named.

observer = "mse"                 # of thresholds.py, for every layer that no rule says more of
weight_observer = "min-max"      # the same of weights
weight_scales = "per-channel"    # or per-tensor
activation_max = 80              # largest magnitude of a quantized activation, and of a quantized weight, 127 if not said:
weight_max = 47                  # where they are 127 together, NEON needs half the multiplications (docs/quantization.md)

[[layers]]
match = "^emotion_conv"          # regular expression, searched in layers' names; of several rules the last that matches counts
precision = "fp16"               # int8 (of every layer no rule names), fp16 or fp32
observer = "kl"                  # and weight_observer, weight_scales, activation_max, weight_max
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeemo_runtime.documents import read_toml
from edgeemo_runtime.errors import EdgeEmoError, first_line

from edgeemo.quantize.calibration.observer import ActivationScaling
from edgeemo.quantize.thresholds import THRESHOLDS
from edgeemo.quantize.weights import GRANULARITIES, WeightScaling
from edgeemo.targets.capabilities import INT8_MAX

NAMED = Path(__file__).parent / "recipes"
PRECISIONS = ("int8", "fp16", "fp32")
OBSERVERS = tuple(THRESHOLDS)
MAGNITUDES = range(1, INT8_MAX + 1)
DEFAULTS = {"observer": "kl", "weight_observer": "min-max", "weight_scales": "per-channel",
            "activation_max": INT8_MAX, "weight_max": INT8_MAX}  # of a recipe as a whole  # fmt: skip
CHOICES: dict[str, Sequence[str] | range] = {
    "precision": PRECISIONS, "observer": OBSERVERS, "weight_observer": OBSERVERS, "weight_scales": GRANULARITIES,
    "activation_max": MAGNITUDES, "weight_max": MAGNITUDES,
}  # fmt: skip


def check_choice(key: str, value: object, origin: str) -> None:
    allowed = CHOICES[key]
    if type(value) is not (int if isinstance(allowed, range) else str) or value not in allowed:
        known = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(allowed)
        raise EdgeEmoError(f"{origin}: {key.replace('_', ' ')} {value!r} is none of {known}")


@dataclass(frozen=True)
class Rule:
    """What is None it leaves as it is. ``origin`` is what a message names: the file or the option the rule came from."""

    match: str
    precision: str | None = None
    observer: str | None = None
    origin: str = "recipe"
    weight_observer: str | None = None
    weight_scales: str | None = None
    activation_max: int | None = None
    weight_max: int | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except (re.error, OverflowError, RecursionError) as error:
            said = f"{self.match[:60]!r} is not a regular expression"
            raise EdgeEmoError(f"{self.origin}: {said} ({first_line(error)})") from error
        for key in CHOICES:
            if (value := getattr(self, key)) is not None:
                check_choice(key, value, f"{self.origin}: {self.match!r}")

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
    weight_observer: str = "min-max"
    weight_scales: str = "per-channel"
    activation_max: int = INT8_MAX
    weight_max: int = INT8_MAX

    def precision(self, layer: str) -> str:
        return self._said("precision", layer, "int8")

    def activation_scaling(self, layer: str) -> ActivationScaling:
        """Of its input."""
        return ActivationScaling(*(self._said(key, layer, getattr(self, key)) for key in ("observer", "activation_max")))

    def weight_scaling(self, layer: str) -> WeightScaling:
        keys = ("weight_observer", "weight_scales", "weight_max")
        return WeightScaling(*(self._said(key, layer, getattr(self, key)) for key in keys))

    def _said(self, key: str, layer: str, otherwise: Any) -> Any:
        said = [getattr(r, key) for r in (*DEFAULT_RULES, *self.rules) if getattr(r, key) is not None and r.matches(layer)]
        return said[-1] if said else otherwise

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
        lines += [f"{key} = {_toml(getattr(self, key))}" for key in ("description", *DEFAULTS)]
        for rule in self.rules:
            lines += ["", "[[layers]]", f"match = {_toml(rule.match)}"]
            lines += [f"{key} = {_toml(value)}" for key in CHOICES if (value := getattr(rule, key)) is not None]
        return "\n".join(lines) + "\n"


def _toml(value: str | int) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON strings and numbers are TOML's


def recipe_names() -> list[str]:
    return sorted(p.stem for p in NAMED.glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """A named recipe, or a TOML file. Raises EdgeEmoError naming the file and the key that is wrong."""
    path = NAMED / f"{name}.toml" if name in recipe_names() else Path(name)
    if not path.is_file():
        raise EdgeEmoError(f"recipe {name}: neither a file nor one of {', '.join(recipe_names())}")
    values = read_toml(path)
    layers = values.pop("layers", [])
    description = values.pop("description", "")
    chosen = {key: values.pop(key, default) for key, default in DEFAULTS.items()}
    if values:
        raise EdgeEmoError(
            f"{path}: does not know {', '.join(values)}; a recipe has {', '.join(DEFAULTS)}, description and [[layers]]"
        )
    if not isinstance(layers, list) or not all(isinstance(entry, dict) for entry in layers):
        raise EdgeEmoError(f"{path}: layers are tables, [[layers]] each")
    for key, value in chosen.items():
        check_choice(key, value, str(path))
    rules = []
    for entry in layers:
        if unknown := sorted(set(entry) - {"match", *CHOICES}):
            raise EdgeEmoError(f"{path}: [[layers]] does not know {', '.join(unknown)}")
        if not isinstance(entry.get("match"), str) or not set(CHOICES) & set(entry):
            raise EdgeEmoError(f"{path}: [[layers]] needs match, and {' or '.join(CHOICES)}")
        rules.append(Rule(**entry, origin=str(path)))
    return Recipe(path.stem, rules=tuple(rules), description=description, **chosen)
