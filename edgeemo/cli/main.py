"""The command line. Verbs parse, check where output goes, call the work, and print a table or one JSON document."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgeemo import __version__
from edgeemo.cli import adapt as adapt_cli
from edgeemo.cli import analyze as analyze_cli
from edgeemo.cli import bench as bench_cli
from edgeemo.cli import evaluate as evaluate_cli
from edgeemo.cli import inspect as compile_cli
from edgeemo.cli import quantize as quantize_cli
from edgeemo.cli import sign as sign_cli
from edgeemo.console import BUILD, FLOAT_MODEL, INT8_MODEL, DebuggableGroup, output_options, print_json, show_table, user_errors
from edgeemo.files import check_output, write_file


@click.group(cls=DebuggableGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__)
def main() -> None:
    """From a torch speech-emotion model to an INT8 artifact for an ARM board: export, quantize, compile, eval.

    Every verb takes --help, and --debug, which shows where an internal error comes from.
    """


@main.command()
@click.option(
    "--model", "kind", default="cosyvoice-tiny", help="cosyvoice-tiny, cosyvoice-nano, whisper-tiny-cls or mfcc-bilstm."
)
@click.option(
    "--data",
    "folders",
    type=click.Path(path_type=Path),
    required=True,
    multiple=True,
    help="Folder with manifest.csv and splits train and dev; cosyvoice-tiny takes several.",
)
@click.option("--epochs", type=click.IntRange(1), default=None, help="Epochs [default: the recipe's].")
@click.option("--updates", type=click.IntRange(1), default=None, help="The same for cosyvoice-tiny, whose mix has no epochs.")
@click.option("--seed", type=int, default=None, help="Random seed [default: the recipe's].")
@click.option("--lr", "peak_lr", type=click.FloatRange(0, min_open=True), default=None, help="Peak learning rate [the recipe's].")
@click.option(
    "--init", type=click.Path(path_type=Path), default=None, help="Checkpoint to continue from [default: from scratch]."
)
@click.option(
    "--teacher",
    "teachers",
    is_flag=False,
    flag_value="whisper",
    multiple=True,
    metavar="[FILE]",
    help="Distil as well, from Whisper tiny.en (needs edgeemo[teacher]), a folder with another CTranslate2 Whisper, or a "
    "whisper-tiny-cls checkpoint. The first gives cosyvoice-nano states to follow, all of them soft labels. "
    "cosyvoice-tiny always has Whisper tiny.en.",
)
@click.option(
    "--unlabelled",
    type=click.Path(path_type=Path),
    default=None,
    help="Any other speech, of which teachers' states are followed.",
)
@click.option("--resume", is_flag=True, help="cosyvoice-tiny: go on where a run with the same --out was cut off.")
@click.option("--intensity", is_flag=True, help="Only fit the second level of angry (annoyed, furious) on the weights of --init.")
@click.option("--threads", type=click.IntRange(1), default=1, help="CPU threads; part of what makes a run repeatable.")
@output_options("build/<model>.safetensors")
@user_errors
def train(
    kind: str,
    folders: tuple[Path, ...],
    epochs: int | None,
    updates: int | None,
    seed: int | None,
    peak_lr: float | None,
    init: Path | None,
    teachers: tuple[str, ...],
    unlabelled: Path | None,
    resume: bool,
    intensity: bool,
    threads: int,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train a model; keeps the weights that are best on the dev split."""
    from edgeemo.model.checkpoint import MODELS, committed_checkpoint
    from edgeemo.model.config import CallConfig
    from edgeemo.train import listener, trainer, windows
    from edgeemo.train.teacher import load_teacher

    if kind not in MODELS:
        raise click.UsageError(f"--model {kind}: there are {', '.join(MODELS)}")
    mixed = kind == "cosyvoice-tiny"
    if unlabelled is not None and not (teachers or mixed):
        raise click.UsageError("--unlabelled is for --teacher: without one there is nothing to learn from it")
    if mixed and not intensity and (teachers or epochs):
        raise click.UsageError("cosyvoice-tiny has Whisper tiny.en as its teacher, and --updates instead of --epochs")
    if not mixed and (updates or resume or (len(folders) > 1 and not intensity)):
        raise click.UsageError("--updates, --resume and a second --data are cosyvoice-tiny's")
    data = folders[0]
    target = check_output(out or BUILD / f"{kind.replace('-', '_')}.safetensors", force or resume)
    if intensity:
        from edgeemo.train.intensity import fit_intensity

        if not kind.startswith("cosyvoice") or teachers or epochs or updates or peak_lr:
            raise click.UsageError("--intensity fits one linear head of CosyVoice: it goes with --init, --seed, --threads")
        fitted = fit_intensity(folders, init or committed_checkpoint(kind), target, threads, 1 if seed is None else seed)
        said = f"dev macro-F1 of annoyed and furious {fitted['dev_intensity_macro_f1']}, weights in {target}"
        print_json(fitted) if as_json else click.echo(said)
        return
    chosen = {"epochs": epochs, "updates": updates, "seed": seed, "peak_lr": peak_lr}
    given: dict[str, Any] = {k: v for k, v in chosen.items() if v is not None}
    listen = [load_teacher(t, CallConfig().sample_rate) for t in teachers]
    if mixed:
        recipe = replace(listener.ListenerRecipe(), **given)
        report = listener.train_listener(folders, target, recipe, threads, init, unlabelled, resume)
    elif kind in windows.RECIPES:
        report = windows.train_windowed(
            kind, data, target, replace(windows.RECIPES[kind], **given), threads, init, listen, unlabelled
        )
    else:
        report = trainer.train(data, target, replace(trainer.Recipe(), **given), threads, init, listen, unlabelled)
    if as_json:
        print_json(report)
    else:
        click.echo(f"best dev macro-F1 {report['best_dev_macro_f1']}, weights in {target}")


@main.command()
@click.option(
    "--model",
    "kind",
    default=None,
    help="One of the package's: cosyvoice-tiny (the default), cosyvoice-nano, whisper-tiny-cls, mfcc-bilstm.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), default=None, help="Weights of your own, of any of the models.")
@output_options(str(FLOAT_MODEL))
@user_errors
def export(kind: str | None, checkpoint: Path | None, out: Path | None, force: bool, as_json: bool) -> None:
    """Write the model's streaming step as ONNX, states explicit, stream contract in its metadata."""
    from edgeemo.export.onnx_step import export_step, save_onnx
    from edgeemo.model.checkpoint import MODELS, committed_checkpoint, load_checkpoint
    from edgeemo.model.size import model_size

    if kind is not None and checkpoint is not None:
        raise click.UsageError("--checkpoint says of itself which model it is of: leave --model out")
    kind = kind or "cosyvoice-tiny"
    if kind not in MODELS:
        raise click.UsageError(f"--model {kind}: there are {', '.join(MODELS)}")
    target = check_output(out or FLOAT_MODEL, force)
    source = checkpoint or committed_checkpoint(kind)
    model = load_checkpoint(source)
    size = model_size(model)
    exported = export_step(model)
    save_onnx(exported, target, force)
    facts = {
        "out": str(target),
        "checkpoint": str(source),
        "parameters": size.parameters,
        "fp32_megabytes": round(size.fp32_bytes / 1e6, 2),
        "macs_per_step": size.macs_per_step,
        "emotion_conv_share": round(size.emotion_conv_macs / size.macs_per_step, 4),
        "bytes": target.stat().st_size,
    }
    print_json(facts) if as_json else show_table("export", ["", ""], [[k, v] for k, v in facts.items()])


@main.command(name="compile")
@click.argument("model", type=click.Path(path_type=Path), default=INT8_MODEL)
@click.option("--target", "target_name", default="aarch64-neon", help="Board: a file in targets/ (`edgeemo targets`).")
@click.option("--debug-dump", type=click.Path(path_type=Path), default=None, metavar="DIR", help="Write Relax, TIR and assembly.")
@click.option("--check/--no-check", default=True, help="Compare with ONNX Runtime; the artifact's manifest says whether.")
@click.option("--feeds", type=click.Path(path_type=Path), default=None, metavar="DIR",
              help="Compare on these .npz files of inputs [default: made-up inputs].")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["artifact", "shared", "static", "exe"]), default="artifact",
              help="One file for the runtimes; a C library with the model in it; or a program for the board.")  # fmt: skip
@click.option("--libc", type=click.Choice(["gnu", "musl"]), default="gnu", help="For shared and static: glibc from 2.17 on, or musl.")
@click.option("--name", default="emotion", help="Of the model in C: a library's name, and part of its symbols.")
@output_options("build/emotion-<target>.edgeemo, or build/<name>-<target>-<format>")
@user_errors
def compile_(
    model: Path, target_name: str, debug_dump: Path | None, check: bool, feeds: Path | None, kind: str, libc: str, name: str,
    out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compile MODEL (INT8 or float ONNX) to one artifact for a board.

    It is compiled for this machine, too, and run here beside ONNX Runtime: an artifact that gives other numbers is not written.
    """
    default = f"emotion-{target_name}.edgeemo" if kind == "artifact" else f"{name}-{target_name}-{kind}"
    from edgeemo.compile.codegen.c_library import check_library, write_library

    target = out or BUILD / default
    target = check_output(target, force) if kind == "artifact" else check_library(kind, name, target, force)
    from edgeemo.compile.check import compile_checked
    from edgeemo.compile.compiler import compile_onnx
    from edgeemo.targets.board import load_target

    board = load_target(target_name)
    compiled = compile_checked(model, board, debug_dump, feeds) if check else compile_onnx(model, board, debug_dump)
    if kind == "artifact":
        write_file(target, compiled.archive, force)
    else:
        write_library(kind, name, board.machine, libc, compiled, target, force)
    ours = {k: compiled.kernels[k] for k in compiled.ours}
    facts = {
        "out": str(target),
        "bytes": len(compiled.archive),
        "target": board.name,
        "cpu": board.cpu,
        "macs_per_step": compiled.manifest["macs_per_step"],
        "kernel_calls": sum(ours.values()),
        "stock_calls": sum(compiled.kernels.values()) - sum(ours.values()),
        "arena_bytes_per_stream": compiled.manifest["step"]["arena_bytes_per_stream"],
        "state_bytes_per_stream": compiled.manifest["step"]["state_words"] * 4,
    }
    if as_json:
        print_json({**facts, "kernels": compiled.kernels, "products_left_to_stock": compiled.stock_products})
        return
    show_table(f"{model} for {board.description}", ["kernel", "calls per step"], [[k, v] for k, v in ours.items()])
    show_table("artifact", ["", ""], [[k, v] for k, v in facts.items()])


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@user_errors
def targets(as_json: bool) -> None:
    """List the boards that compile knows."""
    from edgeemo.targets.board import load_target, target_names

    boards = [load_target(n) for n in target_names()]
    if as_json:
        print_json({"targets": [{"name": b.name, "cpu": b.cpu, "triple": b.triple, "features": b.features} for b in boards]})
    else:
        show_table("targets", ["name", "cpu", "triple", "what it is"], [[b.name, b.cpu, b.triple, b.description] for b in boards])


for verb in (
    adapt_cli.adapt,
    quantize_cli.quantize,
    quantize_cli.recipes,
    analyze_cli.analyze,
    compile_cli.inspect,
    evaluate_cli.eval_,
    evaluate_cli.gate,
    evaluate_cli.eval_calls,
    bench_cli.bench,
    bench_cli.bench_peers,
    sign_cli.keygen,
    sign_cli.sign,
):
    main.add_command(verb)
