"""The mission's table from the committed weights: `python -m edgeemo.bench.table --data DIR` (`make reproduce-table`).

Every model goes through export, quantize and compile as the command line does it, and is scored through the streaming path: the
float checkpoint and the INT8 artifact, on the same clips. What was made and scored is kept in --work, so that a run goes on where
the last one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from edgeemo_runtime.artifact import load_artifact

from edgeemo.bench import host, modelled
from edgeemo.bench.plot import plot_answers, plot_front
from edgeemo.compile.compiler import compile_onnx
from edgeemo.console import BUILD, progress_bar, show_table, user_errors
from edgeemo.data.clips import Clip, find_clips, read_manifest
from edgeemo.data.lines import LINES
from edgeemo.evaluate.compare import compare
from edgeemo.evaluate.evaluate import clip_answers, clip_probabilities, evaluate, open_model
from edgeemo.export.onnx_step import export_step, save_onnx
from edgeemo.files import write_file
from edgeemo.model.checkpoint import MODELS, committed_checkpoint, load_checkpoint
from edgeemo.model.size import model_size
from edgeemo.onnxlib.load import load_onnx
from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.plan import quantize_model
from edgeemo.quantize.recipe import load_recipe
from edgeemo.targets.board import load_target

TARGETS = ("host", "aarch64-neon")
RECIPES = {"whisper-tiny-cls": "int8-mse"}  # nearer to float than the default (docs/models.md)
CALLS = 16  # in a batch, where a core is full
ORDER = ("mfcc-bilstm", "whisper-tiny-cls", "cosyvoice-nano", "cosyvoice-tiny")


def build(kind: str, calib: Path, work: Path, progress: Callable[[int], None]) -> dict[str, Path]:
    """Float and INT8 ONNX and the INT8 artifacts of a model, made where they are not there or older than its weights."""
    checkpoint = committed_checkpoint(kind)
    recipe = RECIPES.get(kind, DEFAULT_RECIPE)
    name = f"{kind}-{calib.resolve().name}-{recipe}"
    paths = {"float": work / f"{kind}.onnx", "int8": work / f"{name}-int8.onnx"}
    paths |= {t: work / f"{name}-{t}.edgeemo" for t in TARGETS}
    if all(p.is_file() and p.stat().st_mtime > checkpoint.stat().st_mtime for p in paths.values()):
        return paths
    save_onnx(export_step(load_checkpoint(checkpoint)), paths["float"], force=True)
    quantized, _ = quantize_model(load_onnx(paths["float"]), kind, find_clips(calib), load_recipe(recipe), progress)
    save_onnx(quantized, paths["int8"], force=True)
    for target in TARGETS:
        write_file(paths[target], compile_onnx(paths["int8"], load_target(target)).archive, force=True)
    return paths


def answers(model: Path, clips: list[Clip], name: str, work: Path, line: str = "clean") -> list[np.ndarray]:
    """Step probabilities of every clip through a ``line`` (data.lines.LINES), kept in ``work``."""
    name = name if line == "clean" else f"{name}-{line}"
    kept = work / f"{name}.answers.npz"
    paths = [str(c.path) for c in clips]
    if kept.is_file() and kept.stat().st_mtime > model.stat().st_mtime:
        with np.load(kept) as stored:
            if "clips" in stored and stored["clips"].tolist() == paths:
                return [stored[f"arr_{i}"] for i in range(len(clips))]
    with progress_bar(f"{name}: {len(clips)} clips", len(clips)) as advance:
        found = clip_answers(open_model(model), clips, advance, line)
    np.savez(kept, *found, clips=np.array(paths))
    return found


def row(
    kind: str, clips: list[Clip], calib: Path, work: Path, tool: Path | None, lines: tuple[str, ...]
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """A model's part of the tables, and its INT8 answers."""
    checkpoint = committed_checkpoint(kind)
    model = load_checkpoint(checkpoint)
    size = model_size(model)
    with progress_bar(f"{kind}: export, quantize, compile", 3 * len(find_clips(calib))) as advance:
        paths = build(kind, calib, work, advance)
    floating, int8 = (answers(p, clips, n, work) for n, p in ((kind, checkpoint), (paths["host"].stem, paths["host"])))
    before, after = (clip_probabilities(model.hears, a) for a in (floating, int8))
    found = compare(before, after, clips, model.config.labels)
    seconds = host.seconds_per_step(paths["host"], [1])[1]
    line: dict[str, Any] = {
        "model": model.title,
        "hears": model.hears,
        "f1": round(found.reference_f1, 4),
        "f1_int8": round(found.f1, 4),
        "drop": round(found.drop, 4),
        "interval": [round(x, 4) for x in found.interval],
        "fp32_mb": round(size.fp32_bytes / 1e6, 2),
        "int8_mb": round(paths["aarch64-neon"].stat().st_size / 1e6, 2),
        "macs_per_step": load_artifact(paths["host"]).manifest["macs_per_step"],
        "rtf_host": round(seconds / modelled.STEP_S, 4),
    }
    opened = open_model(checkpoint)
    report = evaluate(opened, clips, floating)
    line["per_corpus"] = {c or "all": round(v["macro_f1"], 4) for c, v in report["per_corpus"].items()}
    line["lines"] = {"clean": line["f1"]}
    for name in lines:
        scored = evaluate(opened, clips, answers(checkpoint, clips, kind, work, name))
        line["lines"][name] = round(scored["macro_f1"], 4)
    if tool is not None:
        cost = modelled.measure(tool, paths["aarch64-neon"], 1, steps=1, warm_up=1)  # a gigaMAC takes minutes to model
        mhz = modelled.clock_mhz("aarch64-neon")
        line["rtf_a72_modelled"] = round(cost.real / (mhz * 1e6 * modelled.STEP_S), 4)
        calls = CALLS if kind.startswith("cosyvoice") else 1  # of a windowed model a call costs the same in a batch
        if calls > 1:
            cost = modelled.measure(tool, paths["aarch64-neon"], calls, steps=1, warm_up=1)
        line["calls_per_core_modelled"] = modelled.streams_per_core(cost.real / calls, mhz)
    return line, int8


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("calibration"), help="Folder with manifest.csv.")
@click.option("--split", default=None, help="Only this split of the manifest [default: test, where it has it].")
@click.option("--calib", type=click.Path(path_type=Path), default=Path("calibration"), help="Clips to calibrate on.")
@click.option("--a72cost", type=click.Path(path_type=Path), default=None, help="Folder of the a72cost tool: models a Cortex-A72.")
@click.option("--work", type=click.Path(path_type=Path), default=BUILD / "table", help="Where artifacts and answers are kept.")
@click.option("--lines/--no-lines", default=True, help="Score through G.711 and noise as well.")
@click.option("--plots", type=click.Path(path_type=Path), default=None, help="Folder for a plot per model.")
@user_errors
def main(data: Path, split: str | None, calib: Path, a72cost: Path | None, work: Path, lines: bool, plots: Path | None) -> None:
    """Print the tables; build/table/table.json has them as JSON."""
    clips = [c for c in read_manifest(data, split) if c.label is not None]
    if split is None and any(c.split == "test" for c in clips):
        split, clips = "test", [c for c in clips if c.split == "test"]
    for folder in (work, plots or work):
        folder.mkdir(parents=True, exist_ok=True)
    found = []
    for kind in ORDER:
        line, said = row(kind, clips, calib, work, a72cost, LINES[1:] if lines else ())
        found.append(line)
        if plots is not None:
            truth, whole = np.array([c.label for c in clips]), clip_probabilities(line["hears"], said)
            labels = MODELS[kind][1]().labels
            plot_answers(whole, truth, labels, f"{line['model']}, INT8, {len(clips)} clips", plots / f"{kind}.png")
    if plots is not None and a72cost is not None:
        names, calls, scores = ([x[k] for x in found] for k in ("model", "calls_per_core_modelled", "f1_int8"))
        plot_front(names, calls, scores, f"{len(clips)} clips; calls on a Cortex-A72 core, modelled", plots / "pareto.png")
    on = f"{data}, split {split}" if split else str(data)
    write_file(work / "table.json", json.dumps({"on": on, "clips": len(clips), "rows": found}, indent=1).encode(), force=True)
    heads = ["", "F1", "F1 INT8", "drop", "95 %", "FP32 MB", "INT8 MB", "M MAC/step", "RTF here"]
    heads += ["RTF A72 (modelled)", "calls a core (modelled)"] if a72cost else []
    modelled_keys = ["rtf_a72_modelled", "calls_per_core_modelled"] if a72cost else []
    rows = [
        [x["model"], x["f1"], x["f1_int8"], x["drop"], f"{x['interval'][0]} to {x['interval'][1]}", x["fp32_mb"], x["int8_mb"],
         round(x["macs_per_step"] / 1e6, 2), x["rtf_host"], *(x[k] for k in modelled_keys)] for x in found
    ]  # fmt: skip
    show_table(f"macro-F1 of {len(clips)} clips, {on}; 8 kHz, streaming, one call at a time", heads, rows)
    for title, key in (("by corpus", "per_corpus"), ("by what the clips come through", "lines")):
        columns = list(found[0][key])
        show_table(f"macro-F1 {title}", ["", *columns], [[x["model"], *(x[key][c] for c in columns)] for x in found])


if __name__ == "__main__":
    main()
