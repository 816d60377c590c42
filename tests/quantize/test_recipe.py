from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.recipe import RENAMED, Recipe, Rule, load_recipe, recipe_names


def test_every_named_recipe_loads_and_every_threshold_has_one() -> None:
    known = [load_recipe(name) for name in recipe_names()]
    assert {f"int8-{method}" for method in ("kl", "min-max", "mse", "percentile")} <= {r.name for r in known}
    assert all(r.description for r in known)


def test_the_last_rule_that_matches_counts() -> None:
    recipe = Recipe(rules=(Rule("^head", "fp16"), Rule("classifier", "int8", "kl"), Rule("^head.out", threshold="min-max")))
    assert [recipe.precision(n) for n in ("head.out", "head.classifier", "blocks.0.up")] == ["fp16", "int8", "int8"]
    assert [recipe.activation_scaling(n).threshold for n in ("head.out", "head.classifier", "blocks.0.up")] == [
        "min-max",
        "kl",
        "mse",
    ]


def test_the_spectrum_stays_float_unless_a_rule_says_otherwise() -> None:
    assert Recipe().precision("frontend.filterbank") == "fp32"
    assert Recipe(rules=(Rule("filterbank", "int8"),)).precision("frontend.filterbank") == "int8"


def test_written_and_read_again(tmp_path: Path) -> None:
    rules = (
        Rule(r'^a\.b"\d+', "fp16", origin="-"),
        Rule("c", None, "kl", "-"),
        Rule("d", weight_scales="per-tensor", origin="-"),
        Rule("e", activation_qmax=96, weight_qmax=31, origin="-"),
    )
    recipe = Recipe(
        "mine", "mse", rules, 'with "quotes" and \\', weight_threshold="percentile", activation_qmax=80, weight_qmax=47
    )
    (tmp_path / "mine.toml").write_text(recipe.to_toml("why\nand how"))
    read = load_recipe(str(tmp_path / "mine.toml"))
    assert replace(read, rules=()) == replace(recipe, rules=())
    assert [replace(r, origin="-") for r in read.rules] == list(rules)


@pytest.mark.parametrize(
    "text, words",
    [
        ("threshold = 3 +", "not TOML"),
        ('threshold = "kld"', "threshold 'kld' is none of kl,"),
        ('colour = "red"', "does not know colour"),
        ('[[layers]]\nprecision = "fp16"', "needs match"),
        ('[[layers]]\nmatch = "a"', "needs match, and precision or threshold"),
        ('[[layers]]\nmatch = "("\nprecision = "fp16"', "not a regular expression"),
        ('[[layers]]\nmatch = "a"\nprecision = "int4"', "precision 'int4' is none of int8, fp16, fp32"),
        ('[[layers]]\nmatch = "a"\nprecision = "fp16"\nbits = 4', "does not know bits"),
        ('weight_threshold = "l2"', "weight threshold 'l2' is none of kl,"),
        ('[[layers]]\nmatch = "a"\nweight_scales = "per-row"', "weight scales 'per-row' is none of per-channel, per-tensor"),
        ("weight_qmax = 128", "weight qmax 128 is none of 1 to 127"),
        ("activation_qmax = 80.0", "activation qmax 80.0 is none of 1 to 127"),
        ("activation_qmax = 0", "activation qmax 0 is none of 1 to 127"),
        ('[[layers]]\nmatch = "a"\nweight_qmax = true', "weight qmax True is none of 1 to 127"),
        ("layers = 4", "layers are tables"),
    ],
)
def test_mistakes_name_the_file_and_the_key(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(EdgeEmoError, match=r"r\.toml") as error:
        load_recipe(str(path))
    assert words in str(error.value)


def test_what_a_recipe_leaves_out_is_as_in_the_default_one(tmp_path: Path) -> None:
    """One default, wherever it is asked for: no arguments, an empty file, the named recipe."""
    named = load_recipe(DEFAULT_RECIPE)
    (tmp_path / "empty.toml").write_text("")
    assert Recipe() == replace(named, description="")
    assert load_recipe(str(tmp_path / "empty.toml")) == Recipe("empty")


@pytest.mark.parametrize("old, new", RENAMED.items())
@pytest.mark.parametrize("text", ["{} = 1", '[[layers]]\nmatch = "a"\n{} = 1'])
def test_a_key_of_before_says_how_it_is_called(old: str, new: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text.format(old))
    with pytest.raises(EdgeEmoError, match=rf"r\.toml: {old} is called {new}"):
        load_recipe(str(path))


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(EdgeEmoError, match="recipe nope: neither a file nor one of int8-kl"):
        load_recipe("nope")
