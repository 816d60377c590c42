"""`edgeemo adapt`: any ONNX file as one that quantize and compile take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeemo.cli.options import FILE, output_options
from edgeemo.console import BUILD, print_json, show_table, user_errors
from edgeemo.files import check_output, write_file


def _shapes(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, tuple[int | str, ...]]:
    """INPUT=batch,3,48,192 by input."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in given:
        name, separator, sizes = text.partition("=")
        dims = [d.strip() for d in sizes.split(",")]
        if not separator or not all(d == "batch" or (d.isdigit() and int(d) > 0) for d in dims) or dims.count("batch") > 1:
            raise click.BadParameter(
                f"{text}: write INPUT=batch,3,48,192, positive sizes and the word batch once, or not where all is one item's"
            )
        shapes[name] = tuple(d if d == "batch" else int(d) for d in dims)
    return shapes


def _values(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    """INPUT=16000 by input."""
    values = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            values[name] = float(value)
        except ValueError as error:
            raise click.BadParameter(f"{text}: write INPUT=NUMBER") from error
    return values


@click.command()
@click.argument("model", type=FILE)
@click.option("--shape", "shapes", multiple=True, callback=_shapes, metavar="INPUT=batch,SIZE,...",
              help="An input's shape, where the file leaves sizes open or its batch is not the first dimension; without "
              "'batch' all of it is one item's.")  # fmt: skip
@click.option("--set", "values", multiple=True, callback=_values, metavar="INPUT=NUMBER", help="Make an input a constant.")
@output_options("build/<model>-adapted.onnx")
@user_errors
def adapt(
    model: Path,
    shapes: dict[str, tuple[int | str, ...]],
    values: dict[str, float],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make MODEL, any ONNX file, one that quantize and compile take.

    Sizes are fixed but for the batch, which comes first everywhere; constants are folded, LSTM and GRU unrolled, the opset
    brought to 20 at least. ONNX Runtime's quantized operators (QLinear...) become QDQ; dynamically quantized ones float, to be
    quantized anew. The result is run next to MODEL in ONNX Runtime, several items at once against one at a time.
    """
    from edgeemo.adapt import adapt as work
    from edgeemo.onnxlib.graph import dims, inputs_of
    from edgeemo.onnxlib.load import load_onnx

    target = check_output(out or BUILD / f"{model.stem}-adapted.onnx", force)
    adapted = work.adapt(load_onnx(model), str(model), shapes, values)
    data = adapted.model.SerializeToString(deterministic=True)
    write_file(target, data, force)
    about: dict[str, Any] = {
        "out": str(target),
        "bytes": len(data),
        "nodes": len(adapted.model.graph.node),
        "inputs": {i.name: list(dims(i)) for i in inputs_of(adapted.model)},
        "outputs": {o.name: list(dims(o)) for o in adapted.model.graph.output},
        "difference": adapted.difference,
        "noise": adapted.noise,
    }
    if as_json:
        print_json(about)
        return
    rows = [[side, name, " x ".join(map(str, shape))] for side in ("inputs", "outputs") for name, shape in about[side].items()]
    show_table(str(model), ["", "name", "shape"], rows)
    click.echo(f"{target}: {len(data) / 1e6:.2f} MB, {about['nodes']} nodes; differs by {adapted.difference:.1e} from {model}")
    if adapted.noise is not None:
        click.echo(f"{model}'s quantized operators are rewritten; its own integers round otherwise: {adapted.noise:.1%} noise")
