"""`edgeemo export`: a torch model as a streaming step in ONNX."""

from __future__ import annotations

from pathlib import Path

import click

from edgeemo.cli.options import FILE, output_options
from edgeemo.console import FLOAT_MODEL, print_json, show_table, user_errors
from edgeemo.files import check_output
from edgeemo.model.names import MODEL_NAMES


@click.command()
@click.option("--model", type=click.Choice(MODEL_NAMES), default=None, help="One of the package's [default: cosyvoice-tiny].")
@click.option("--checkpoint", type=FILE, default=None, help="Weights of your own, of any of the models.")
@output_options(str(FLOAT_MODEL))
@user_errors
def export(model: str | None, checkpoint: Path | None, out: Path | None, force: bool, as_json: bool) -> None:
    """Write the model's streaming step as ONNX, states explicit, stream contract in its metadata."""
    from edgeemo.export.onnx_step import export_step, save_onnx
    from edgeemo.model.checkpoint import committed_checkpoint, load_checkpoint
    from edgeemo.model.size import model_size

    if model is not None and checkpoint is not None:
        raise click.UsageError("--checkpoint says of itself which model it is of: leave --model out")
    target = check_output(out or FLOAT_MODEL, force)
    source = checkpoint or committed_checkpoint(model or MODEL_NAMES[0])
    loaded = load_checkpoint(source)
    size = model_size(loaded)
    exported = export_step(loaded)
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
