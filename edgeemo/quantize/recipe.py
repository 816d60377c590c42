"""Recipes: which layer gets which precision, and whose inputs are clipped how. Data, not code: TOML files, some of them named.

threshold = "mse"                # method of thresholds/ that clips activations, for every layer that no rule says more of
weight_threshold = "min-max"     # the same of weights
weight_scales = "per-channel"    # or per-tensor
activation_qmax = 80             # largest magnitude of a quantized activation, and of a quantized weight, 127 at most: where they
weight_qmax = 47                 # are 127 together, NEON needs half the multiplications (docs/quantization.md)
weight_rounding = "gptq"         # by what the layer hears in calibration, or nearest

[[layers]]
match = "^emotion_conv"          # regular expression, searched in layers' names; of several rules the last that matches counts
precision = "fp16"               # int8 (of every layer no rule names), fp16 or fp32
threshold = "kl"                 # and weight_threshold, weight_scales, activation_qmax, weight_qmax, weight_rounding

A key that a recipe leaves out has the default recipe's value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeemo_runtime.documents import read_toml
from edgeemo_runtime.errors import EdgeEmoError, first_line

from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.calibration.observer import ActivationScaling
from edgeemo.quantize.thresholds import THRESHOLDS
from edgeemo.quantize.weights import GRANULARITIES, ROUNDINGS, WeightScaling
from edgeemo.targets.capabilities import INT8_MAX

NAMED = Path(__file__).parent / "recipes"
PRECISIONS = ("int8", "fp16", "fp32")
METHODS = tuple(THRESHOLDS)
MAGNITUDES = range(1, INT8_MAX + 1)
CHOICES: dict[str, Sequence[str] | range] = {
    "precision": PRECISIONS, "threshold": METHODS, "weight_threshold": METHODS, "weight_scales": GRANULARITIES,
    "activation_qmax": MAGNITUDES, "weight_qmax": MAGNITUDES, "weight_rounding": ROUNDINGS,
}  # fmt: skip
SCALING = tuple(key for key in CHOICES if key != "precision")  # keys of a recipe as a whole
# The one place of the defaults is the default recipe's file.
DEFAULTS: dict[str, Any] = {key: read_toml(NAMED / f"{DEFAULT_RECIPE}.toml")[key] for key in SCALING}
RENAMED = {"observer": "threshold", "weight_observer": "weight_threshold", "activation_max": "activation_qmax",
           "weight_max": "weight_qmax"}  # keys of recipes written before 0.1.0  # fmt: skip


def check_choice(key: str, value: object, origin: str) -> None:
    allowed = CHOICES[key]
    if type(value) is not (int if isinstance(allowed, range) else str) or value not in allowed:
        known = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(allowed)
        raise EdgeEmoError(f"{origin}: {key.replace('_', ' ')} {value!r} is none of {known}")


@dataclass(frozen=True)
class Rule:
    """A rule for the layers that ``match``. None means: inherit from earlier rules or the recipe. ``origin`` is what a message
    names: the file or the option the rule came from."""

    match: str
    precision: str | None = None
    threshold: str | None = None
    origin: str = "recipe"
    weight_threshold: str | None = None
    weight_scales: str | None = None
    activation_qmax: int | None = None
    weight_qmax: int | None = None
    weight_rounding: str | None = None

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
    """Scaling of a whole model and rules for single layers; without arguments, the default recipe."""

    name: str = DEFAULT_RECIPE
    threshold: str = DEFAULTS["threshold"]
    rules: tuple[Rule, ...] = ()
    description: str = ""
    weight_threshold: str = DEFAULTS["weight_threshold"]
    weight_scales: str = DEFAULTS["weight_scales"]
    activation_qmax: int = DEFAULTS["activation_qmax"]
    weight_qmax: int = DEFAULTS["weight_qmax"]
    weight_rounding: str = DEFAULTS["weight_rounding"]

    def precision(self, layer: str) -> str:
        return self._said("precision", layer, "int8")

    def activation_scaling(self, layer: str) -> ActivationScaling:
        """The scaling of a layer's input."""
        return ActivationScaling(*(self._said(key, layer, getattr(self, key)) for key in ("threshold", "activation_qmax")))

    def weight_scaling(self, layer: str) -> WeightScaling:
        keys = ("weight_threshold", "weight_scales", "weight_qmax", "weight_rounding")
        return WeightScaling(*(self._said(key, layer, getattr(self, key)) for key in keys))

    def _said(self, key: str, layer: str, otherwise: Any) -> Any:
        said = [getattr(r, key) for r in (*DEFAULT_RULES, *self.rules) if getattr(r, key) is not None and r.matches(layer)]
        return said[-1] if said else otherwise

    def keep(self, matches: tuple[str, ...], precision: str, origin: str) -> Recipe:
        """This recipe with layers kept in ``precision``, whatever the rules before said."""
        return replace(self, rules=(*self.rules, *(Rule(m, precision, origin=origin) for m in matches)))

    def check_all_match(self, layers: list[str]) -> None:
        """Raises EdgeEmoError for a rule that names none of ``layers``: a typing error keeps no layer in FP16."""
        for rule in self.rules:
            if not any(rule.matches(name) for name in layers):
                raise EdgeEmoError(f"{rule.origin} {rule.match}: no layer's name matches; the layers are {', '.join(layers)}")

    def to_toml(self, comment: str = "") -> str:
        """The recipe as load_recipe reads it, every key said; ``comment``, line by line, above it."""
        lines = [f"# {line}" for line in comment.splitlines()]
        lines += [f"{key} = {_toml(getattr(self, key))}" for key in ("description", *SCALING)]
        for rule in self.rules:
            lines += ["", "[[layers]]", f"match = {_toml(rule.match)}"]
            lines += [f"{key} = {_toml(value)}" for key in CHOICES if (value := getattr(rule, key)) is not None]
        return "\n".join(lines) + "\n"


def _toml(value: str | int) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON strings and numbers are TOML's


def recipe_names() -> list[str]:
    return sorted(p.stem for p in NAMED.glob("*.toml"))


def _refuse_renamed(keys: Iterable[str], path: Path) -> None:
    for old in RENAMED.keys() & set(keys):
        raise EdgeEmoError(f"{path}: {old} is called {RENAMED[old]} since 0.1.0: rename the key")


def load_recipe(name: str) -> Recipe:
    """A named recipe, or a TOML file. Raises EdgeEmoError naming the file and the key that is wrong."""
    path = NAMED / f"{name}.toml" if name in recipe_names() else Path(name)
    if not path.is_file():
        raise EdgeEmoError(f"recipe {name}: neither a file nor one of {', '.join(recipe_names())}")
    values = read_toml(path)
    layers = values.pop("layers", [])
    description = values.pop("description", "")
    chosen = {key: values.pop(key, default) for key, default in DEFAULTS.items()}
    _refuse_renamed(values, path)
    if values:
        raise EdgeEmoError(
            f"{path}: does not know {', '.join(values)}; a recipe has {', '.join(SCALING)}, description and [[layers]]"
        )
    if not isinstance(layers, list) or not all(isinstance(entry, dict) for entry in layers):
        raise EdgeEmoError(f"{path}: layers are tables, [[layers]] each")
    for key, value in chosen.items():
        check_choice(key, value, str(path))
    rules = []
    for entry in layers:
        _refuse_renamed(entry, path)
        if unknown := sorted(set(entry) - {"match", *CHOICES}):
            raise EdgeEmoError(f"{path}: [[layers]] does not know {', '.join(unknown)}")
        if not isinstance(entry.get("match"), str) or not set(CHOICES) & set(entry):
            raise EdgeEmoError(f"{path}: [[layers]] needs match, and {' or '.join(CHOICES)}")
        rules.append(Rule(**entry, origin=str(path)))
    return Recipe(path.stem, rules=tuple(rules), description=description, **chosen)
