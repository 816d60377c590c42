from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.quantize.recipe import Recipe, Rule, load_recipe, recipe_names


def test_every_named_recipe_loads_and_the_first_methods_have_one() -> None:
    known = [load_recipe(name) for name in recipe_names()]
    assert {f"int8-{method}" for method in ("kl", "min-max", "mse", "percentile")} <= {r.name for r in known}
    assert all(r.description for r in known)


def test_the_last_rule_that_matches_counts() -> None:
    recipe = Recipe(rules=(Rule("^head", "fp16"), Rule("classifier", "int8", "mse"), Rule("^head.out", observer="min-max")))
    assert [recipe.precision(n) for n in ("head.out", "head.classifier", "blocks.0.up")] == ["fp16", "int8", "int8"]
    assert [recipe.activation_scaling(n).observer for n in ("head.out", "head.classifier", "blocks.0.up")] == [
        "min-max",
        "mse",
        "kl",
    ]


def test_the_spectrum_stays_float_unless_a_rule_says_otherwise() -> None:
    assert Recipe().precision("frontend.filterbank") == "fp32"
    assert Recipe(rules=(Rule("filterbank", "int8"),)).precision("frontend.filterbank") == "int8"


def test_written_and_read_again(tmp_path: Path) -> None:
    rules = (
        Rule(r'^a\.b"\d+', "fp16", origin="-"),
        Rule("c", None, "kl", "-"),
        Rule("d", weight_scales="per-tensor", origin="-"),
        Rule("e", activation_max=96, weight_max=31, origin="-"),
    )
    recipe = Recipe("mine", "mse", rules, 'with "quotes" and \\', weight_observer="percentile", activation_max=80, weight_max=47)
    (tmp_path / "mine.toml").write_text(recipe.to_toml("why\nand how"))
    read = load_recipe(str(tmp_path / "mine.toml"))
    assert replace(read, rules=()) == replace(recipe, rules=())
    assert [replace(r, origin="-") for r in read.rules] == list(rules)


@pytest.mark.parametrize(
    "text, words",
    [
        ("observer = 3 +", "not TOML"),
        ('observer = "kld"', "observer 'kld' is none of kl,"),
        ('colour = "red"', "does not know colour"),
        ('[[layers]]\nprecision = "fp16"', "needs match"),
        ('[[layers]]\nmatch = "a"', "needs match, and precision or observer"),
        ('[[layers]]\nmatch = "("\nprecision = "fp16"', "not a regular expression"),
        ('[[layers]]\nmatch = "a"\nprecision = "int4"', "precision 'int4' is none of int8, fp16, fp32"),
        ('[[layers]]\nmatch = "a"\nprecision = "fp16"\nbits = 4', "does not know bits"),
        ('weight_observer = "l2"', "weight observer 'l2' is none of kl,"),
        ('[[layers]]\nmatch = "a"\nweight_scales = "per-row"', "weight scales 'per-row' is none of per-channel, per-tensor"),
        ("weight_max = 128", "weight max 128 is none of 1 to 127"),
        ("activation_max = 80.0", "activation max 80.0 is none of 1 to 127"),
        ("activation_max = 0", "activation max 0 is none of 1 to 127"),
        ('[[layers]]\nmatch = "a"\nweight_max = true', "weight max True is none of 1 to 127"),
        ("layers = 4", "layers are tables"),
    ],
)
def test_mistakes_name_the_file_and_the_key(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(EdgeEmoError, match=r"r\.toml") as error:
        load_recipe(str(path))
    assert words in str(error.value)


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(EdgeEmoError, match="recipe nope: neither a file nor one of int8-kl"):
        load_recipe("nope")
