"""`edgeemo eval`, `edgeemo gate` and `edgeemo eval-calls`: how good a model is, and how much of that a change costs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.console import FLOAT_MODEL, INT8_MODEL, print_json, progress_bar, show_table, user_errors
from edgeemo.data.clips import Clip

FAILED = 3  # exit code of a gate that does not hold


def _labelled(data: Path, split: str | None) -> list[Clip]:
    from edgeemo.data.clips import read_manifest

    clips = [c for c in read_manifest(data, split) if c.label is not None]
    if not clips:
        raise EdgeEmoError(f"{data}: no clip has a label; macro-F1 compares with labels")
    return clips


def _answers(models: tuple[Path, ...], clips: list[Clip], line: str = "clean") -> tuple[list[Any], list[list[np.ndarray]]]:
    """Every model opened before any runs, and what each says. Raises EdgeEmoError if they do not have the same labels."""
    from edgeemo.evaluate.evaluate import clip_answers, open_model

    opened = [open_model(m) for m in models]
    for path, model in zip(models, opened, strict=True):
        if model.labels != opened[0].labels:
            raise EdgeEmoError(f"{path}: its labels are {', '.join(model.labels)}, those of {models[0]} others; not comparable")
    with progress_bar(f"{len(clips)} clips", len(models) * len(clips)) as advance:
        return opened, [clip_answers(m, clips, advance, line) for m in opened]


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.4f} to {ends[1]:+.4f}"


@click.command(name="eval")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("others", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), default=Path("speech"), help="Folder with manifest.csv.")
@click.option("--split", default=None, help="Only this split of the manifest [default: all clips].")
@click.option(
    "--line", default="clean", help="What clips come through: clean, alaw, mulaw (G.711), noise20, noise10, noise5 (dB)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@user_errors
def eval_(model: Path, others: tuple[Path, ...], data: Path, split: str | None, line: str, as_json: bool) -> None:
    """Clip-level macro-F1 of MODEL (checkpoint, ONNX or artifact) through the streaming path.

    OTHERS are compared with it clip by clip: the drop in F1 with its 95 % interval, how often they agree, and the worst clips.
    """
    from edgeemo.data.telephone import LINES
    from edgeemo.evaluate.compare import compare
    from edgeemo.evaluate.evaluate import evaluate, evaluate_intensity

    if line not in LINES:
        raise click.UsageError(f"--line must be one of {', '.join(LINES)}, not {line}")
    clips = _labelled(data, split)
    opened, answers = _answers((model, *others), clips, line)
    report = evaluate(opened[0], clips, answers[0])
    document = {"model": str(model), "split": split, "line": line, **report}
    document["intensity"] = evaluate_intensity(opened[0], clips)
    found = {str(path): compare(answers[0], a, clips, opened[0].labels) for path, a in zip(others, answers[1:], strict=True)}
    if found:
        document["compared"] = {path: c.document() for path, c in found.items()}
    if as_json:
        print_json(document)
        return
    labels = report["labels"]
    show_table("per class", ["class", "F1", "clips"], [[n, f"{v['f1']:.3f}", v["clips"]] for n, v in report["per_class"].items()])
    rows = [[n, f"{v['macro_f1']:.3f}", f"{v['accuracy']:.3f}", v["clips"]] for n, v in report["per_corpus"].items()]
    show_table("per corpus", ["corpus", "macro-F1", "accuracy", "clips"], rows)
    rows = [[n, *row] for n, row in zip(labels, report["confusion"], strict=True)]
    show_table("confusion: row = label, column = answer", ["", *labels], rows)
    click.echo(
        f"macro-F1 {report['macro_f1']:.4f}  accuracy {report['accuracy']:.4f}  "
        f"jump rate {report['jump_rate']:.4f}  clips {report['clips']}"
    )
    if strength := document["intensity"]:
        click.echo(
            f"annoyed or furious: macro-F1 {strength['macro_f1']:.4f} of {strength['clips']} angry clips of known strength"
        )
    if not found:
        return
    rows = [
        [p, f"{c.f1:.4f}", f"{c.drop:+.4f}", _interval(c.interval), f"{c.agreement:.1%}", f"{c.mean_kl:.5f}"]
        for p, c in found.items()
    ]
    columns = ["", "macro-F1", "drop", "95 % interval", "same answer", "mean KL"]
    show_table(f"beside {model}, the same clips; interval over {next(iter(found.values())).speakers} speakers", columns, rows)
    for path, c in found.items():
        rows = [[w.path, w.label, w.reference, w.answer, f"{w.kl:.4f}"] for w in c.worst]
        show_table(f"worst clips of {path}", ["clip", "label", "reference", "answer", "KL"], rows)


@click.command()
@click.argument("reference", type=click.Path(path_type=Path), default=FLOAT_MODEL)
@click.argument("model", type=click.Path(path_type=Path), default=INT8_MODEL)
@click.option("--max-f1-drop", type=click.FloatRange(0, 1), default=0.011, help="Largest loss of macro-F1, absolute.")
@click.option("--on", "data", type=click.Path(path_type=Path), envvar="EDGEEMO_SPEECH", default=Path("speech"),
              help="Folder with manifest.csv; the variable EDGEEMO_SPEECH may name it, too.")  # fmt: skip
@click.option("--split", default=None, help="Only this split [default: test, where the manifest has it].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a line.")
@user_errors
def gate(reference: Path, model: Path, max_f1_drop: float, data: Path, split: str | None, as_json: bool) -> None:
    """Stop a release when MODEL has lost too much macro-F1 beside REFERENCE.

    Exit code 0: it has not; 3: it has; 1: the gate could not run.
    """
    from edgeemo.evaluate.compare import compare

    clips = _labelled(data, split)
    if split is None and any(c.split == "test" for c in clips):
        split, clips = "test", [c for c in clips if c.split == "test"]
    opened, answers = _answers((reference, model), clips)
    found = compare(answers[0], answers[1], clips, opened[0].labels)
    # What rounds to the limit is not beyond it: macro-F1 of a thousand clips has no more than four digits.
    passed = round(found.drop, 4) <= max_f1_drop
    on = f"{data}, split {split}" if split else str(data)
    if as_json:
        about = {"passed": passed, "max_f1_drop": max_f1_drop, "on": on, "reference": str(reference), "model": str(model)}
        print_json({**about, **found.document()})
    else:
        click.echo(
            f"gate {'passed' if passed else 'FAILED'}: macro-F1 {found.reference_f1:.4f} -> {found.f1:.4f}, a drop of "
            f"{found.drop:+.4f} (95 % interval {_interval(found.interval)}), {max_f1_drop} allowed; {found.clips} clips of "
            f"{found.speakers} speakers in {on}"
        )
    if not passed:
        sys.exit(FAILED)


@click.command("eval-calls")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with manifest.csv, speakers and labels.")
@click.option("--split", default=None, help="Only this split of the manifest [default: all clips].")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="edgeemo-run's TOML: [decision] and [audio] count.")
@click.option("--rules", default="call-centre", help="Decision rules where there is no config: call-centre, in-car, raw.")
@click.option("--skip-silence", is_flag=True, help="Silent steps do not go through the network.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@user_errors
def eval_calls(
    artifact: Path, data: Path, split: str | None, config: Path | None, rules: str, skip_silence: bool, as_json: bool
) -> None:
    """What the runtime's decision rules make of long calls joined from real clips, beside the raw answers."""
    from edgeemo_runtime.artifact import load_artifact
    from edgeemo_runtime.decision import PRESETS
    from edgeemo_runtime.ops.config import Config, load_config

    from edgeemo.data.clips import read_manifest
    from edgeemo.evaluate.calls import changing_calls, evaluate_calls, steady_calls

    if rules not in PRESETS:
        raise click.UsageError(f"--rules must be one of {', '.join(PRESETS)}, not {rules}")
    settings = load_config(config) if config is not None else replace(Config(), decision=PRESETS[rules])
    audio = replace(settings.audio, skip_silence=True) if skip_silence else settings.audio
    clips = read_manifest(data, split)
    stream = load_artifact(artifact).manifest["stream"]
    if stream is None:
        raise EdgeEmoError(f"{artifact}: has no stream contract, so audio cannot be streamed through it")
    document: dict[str, Any] = {"artifact": str(artifact), "split": split}
    kinds = {"steady": steady_calls(clips, stream["sample_rate"]), "changing": changing_calls(clips, stream["sample_rate"])}
    if not any(kinds.values()):
        raise EdgeEmoError(f"{data}: not enough audio of one speaker and label to join to calls")
    with progress_bar("calls", sum(map(len, kinds.values()))) as advance:
        for kind, calls in kinds.items():
            document[kind] = evaluate_calls(artifact, calls, settings.decision, audio, advance) if calls else None
    if as_json:
        print_json(document)
        return
    for kind, found in document.items():
        if isinstance(found, dict):
            title = f"{kind}: {found['calls']} calls, {found['steps']} steps, {found['handoffs']} handoffs"
            scores = [[name, *(f"{found[n].get(name, float('nan')):.4f}" for n in ("raw", "decided"))] for name in found["raw"]]
            show_table(title, ["", "raw", "decided"], scores)
