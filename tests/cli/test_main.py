"""The group of verbs: each in the file of its name, quick to ask for help, complete in a shell; old options are answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import onnx
import pytest
from click.testing import CliRunner
from edgeemo_runtime.artifact import unchecked
from edgeemo_runtime.decision import PRESETS
from edgeemo_runtime.members import read_members

import edgeemo.cli
from edgeemo.cli.main import VERBS, main
from edgeemo.cli.options import TargetChoice
from edgeemo.data.lines import LINES
from edgeemo.model.names import MODEL_NAMES
from edgeemo.quantize.recipe import recipe_names
from edgeemo.quantize.thresholds import THRESHOLDS
from edgeemo.targets.board import target_aliases, target_names
from tests.graphs import residual_block

HEAVY = ("torch", "tvm", "tvm_ffi", "onnx", "onnxruntime", "matplotlib")
COMPLETIONS = {
    "quantize --threshold ": list(THRESHOLDS),
    "quantize --recipe int8-m": [n for n in recipe_names() if n.startswith("int8-m")],
    "export --model ": list(MODEL_NAMES),
    "train --model cosyvoice-t": ["cosyvoice-tiny"],
    "compile --target ": [*target_names(), *target_aliases()],
    "eval --line ": list(LINES),
    "eval-calls --rules ": list(PRESETS),
    "ev": ["eval", "eval-calls"],
    "tune --max": ["--max-f1-drop"],
}
# In a process of its own, all helps and completions; prints which heavy modules were loaded, helps' first lines, completions.
PROGRAM = """
import json, sys
from click.shell_completion import BashComplete
from click.testing import CliRunner
from edgeemo.cli.main import VERBS, main
from edgeemo.cli.options import TargetChoice

helps = [CliRunner().invoke(main, [*words, "--help"]).output for words in ((), *((v,) for v in VERBS))]
shell = BashComplete(main, {}, "edgeemo", "_EDGEEMO_COMPLETE")
found = {}
for line in json.loads(sys.argv[1]):
    *words, last = line.split(" ")
    found[line] = [c.value for c in shell.get_completions(words, last) if c.type == "plain"]
print(json.dumps([[m for m in json.loads(sys.argv[2]) if m in sys.modules], helps, found]))
"""


def verbs() -> dict[str, click.Command]:
    context = click.Context(main)
    return {name: command for name in VERBS if (command := main.get_command(context, name)) is not None}


def options(command: click.Command) -> dict[str, click.Option]:
    return {name: p for p in command.params if isinstance(p, click.Option) for name in p.opts}


def test_every_verb_has_the_file_of_its_name_and_says_what_it_does() -> None:
    assert tuple(verbs()) == VERBS
    assert all(command.name == name and command.help for name, command in verbs().items())
    files = {p.stem for p in Path(edgeemo.cli.__file__).parent.glob("*.py")}
    assert {name.replace("-", "_") for name in VERBS} <= files


def test_help_and_completion_load_nothing_heavy() -> None:
    asked = [json.dumps(x) for x in (list(COMPLETIONS), HEAVY)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *asked], capture_output=True, text=True, check=True)
    loaded, helps, found = json.loads(done.stdout)
    assert loaded == []
    assert all(text.startswith("Usage: ") for text in helps)
    assert found == COMPLETIONS


def test_the_command_that_the_docs_give_sets_a_shell_up() -> None:
    program = "from edgeemo.cli.main import main; main(prog_name='edgeemo')"
    environment = {**os.environ, "_EDGEEMO_COMPLETE": "bash_source"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert "complete -o nosort -F _edgeemo_completion edgeemo" in done.stdout


OLD = (
    ("gate", "--on"), ("quantize", "--on"), ("quantize", "--max-f1-drop"), ("quantize", "--budget"), ("quantize", "--clips"),
    ("quantize", "--split"), ("quantize", "--observer"), ("analyze", "--data-split"), ("analyze", "--data-clips"),
    ("analyze", "--clips"), ("analyze", "--observer"), ("analyze", "--propose"), ("bench", "--plan"), ("bench", "--streams"),
    ("bench", "--costs"), ("bench-peers", "--model"), ("bench-peers", "--int8-model"), ("bench-peers", "--streams"),
)  # fmt: skip


@pytest.mark.parametrize("verb, option", OLD, ids=" ".join)
def test_an_old_option_is_no_such_option(verb: str, option: str) -> None:
    done = CliRunner().invoke(main, [verb, option, "x"])
    assert done.exit_code == 2
    assert f"No such option '{option}'" in done.output or f"No such option: {option}" in done.output


def test_the_same_option_is_the_same_on_every_verb() -> None:
    """By its type, whether it is a flag, its choices and metavar."""
    seen: dict[str, tuple[str, object]] = {}
    for verb, command in verbs().items():
        for name, option in options(command).items():
            shape = (type(option.type).__name__, option.is_flag, getattr(option.type, "choices", None), option.metavar)
            assert seen.setdefault(name, (verb, shape))[1] == shape, (name, verb, seen[name])


def test_verbs_that_write_or_score_have_the_options_of_all() -> None:
    named = {name: set(options(command)) for name, command in verbs().items()}
    assert all("--json" in names for names in named.values())
    listing = {"recipes", "targets"}
    assert all({"--out", "--force"} <= names for verb, names in named.items() if verb not in listing)
    scoring = {verb for verb, names in named.items() if {"--data", "--split", "--limit"} <= names}
    assert scoring == {"analyze", "tune", "eval", "eval-calls", "gate"}
    calibrating = {verb for verb, names in named.items() if {"--calib", "--calib-split", "--calib-limit", "--feeds"} <= names}
    assert calibrating == {"quantize", "analyze", "tune"}


def test_names_of_models_are_those_of_the_classes() -> None:
    from edgeemo.model.checkpoint import MODELS

    assert tuple(MODELS) == MODEL_NAMES


def test_several_targets_are_one_artifact_each_in_build(tmp_path: Path) -> None:
    runner = CliRunner()
    for more in (["--out", "x.edgeemo"], ["--debug-dump", "d"], ["--format", "shared"]):
        done = runner.invoke(main, ["compile", "m.onnx", "--target", "pi4,pi5", *more])
        assert done.exit_code == 2 and "several targets" in done.output, done.output
    done = runner.invoke(main, ["compile", "m.onnx", "--target", "pi4,z80"])
    assert done.exit_code == 2 and "'z80' is not one of" in done.output
    assert TargetChoice(several=True).convert("cm5,pi4,pi5,aarch64-neon", None, None) == ["pi5", "aarch64-neon"]


@pytest.mark.slow
def test_each_of_several_targets_gets_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(residual_block(), tmp_path / "m.onnx")
    done = CliRunner().invoke(main, ["compile", "m.onnx", "--target", "pi4,pi5", "--no-check", "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)["artifacts"]
    assert [(a["target"], a["out"]) for a in made] == [(n, f"build/emotion-{n}.edgeemo") for n in ("aarch64-neon", "pi5")]
    assert [unchecked(read_members(Path(a["out"]))).manifest["target"]["cpu"] for a in made] == ["cortex-a72", "cortex-a76"]
