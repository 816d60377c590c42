"""`edgeemo eval`: how good a model is, and how much of that a change costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeemo.cli.options import FILE, data_options, report_options
from edgeemo.cli.scoring import answers_of, interval_text, labelled_clips
from edgeemo.console import check_report, print_json, show_table, user_errors, write_report
from edgeemo.data.lines import LINES


@click.command(name="eval")
@click.argument("model", type=FILE)
@click.argument("others", nargs=-1, type=FILE)
@data_options()
@click.option("--line", type=click.Choice(LINES), default="clean", help="Channel of the clips: G.711, or noise so many dB below.")
@report_options
@user_errors
def eval_(
    model: Path, others: tuple[Path, ...], data: Path, split: str | None, limit: int | None, line: str,
    out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Clip-level macro-F1 of MODEL (checkpoint, ONNX or artifact) through the streaming path.

    OTHERS are compared with it clip by clip: the drop in F1 with its 95 % interval, how often they agree, and the worst clips.
    """
    from edgeemo.evaluate.compare import compare
    from edgeemo.evaluate.evaluate import clip_probabilities, evaluate, evaluate_intensity

    check_report(out, force)
    clips, _ = labelled_clips(data, split, limit)
    opened, answers = answers_of((model, *others), clips, line)
    document = {"model": str(model), "split": split, "line": line, **evaluate(opened[0], clips, answers[0])}
    document["intensity"] = evaluate_intensity(opened[0], clips)
    reference, *said = (clip_probabilities(m.hears, a) for m, a in zip(opened, answers, strict=True))
    found = {str(path): compare(reference, a, clips, opened[0].labels) for path, a in zip(others, said, strict=True)}
    if found:
        document["compared"] = {path: c.document() for path, c in found.items()}
    write_report(document, out, force)
    if as_json:
        print_json(document)
        return
    _print_scores(document)
    if found:
        _print_compared(model, found)


def _print_scores(report: dict[str, Any]) -> None:
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
    if strength := report["intensity"]:
        click.echo(
            f"annoyed or furious: macro-F1 {strength['macro_f1']:.4f} of {strength['clips']} angry clips of known strength"
        )


def _print_compared(model: Path, found: dict[str, Any]) -> None:
    rows = [
        [p, f"{c.f1:.4f}", f"{c.drop:+.4f}", interval_text(c.interval), f"{c.agreement:.1%}", f"{c.mean_kl:.5f}"]
        for p, c in found.items()
    ]
    columns = ["", "macro-F1", "drop", "95 % interval", "same answer", "mean KL"]
    speakers = next(iter(found.values())).speakers
    show_table(f"compared with {model}, on the same clips; interval over {speakers} speakers", columns, rows)
    for path, c in found.items():
        rows = [[w.path, w.label, w.reference, w.answer, f"{w.kl:.4f}"] for w in c.worst]
        show_table(f"worst clips of {path}", ["clip", "label", "reference", "answer", "KL"], rows)
