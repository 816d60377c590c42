"""The artifact for the board, on an emulated Cortex-A72 with nothing installed but the runtime wheel and what it declares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeemo.compile.codegen.link import link_shared
from edgeemo.compile.compiler import compile_onnx
from edgeemo.evaluate.evaluate import ArtifactModel, OnnxModel
from edgeemo.onnxlib.feeds import made_up
from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.recipe import load_recipe
from edgeemo.targets.board import load_target
from tests.aarch64 import board
from tests.compile.test_parity import MEAN, MOST, OF_A_HUNDRED
from tests.conftest import speech
from tests.graphs import compiled, grouped_block, quantized, residual_block

pytestmark = [pytest.mark.slow, pytest.mark.qemu, pytest.mark.skipif(not board.available(), reason=board.REASON)]
STEPS = 30


def on_board(artifact: Path, call: np.ndarray) -> np.ndarray:
    """Probabilities (steps, 7) of a call given as raw PCM on stdin to edgeemo-run."""
    pcm = np.round(call * 32768).astype("<i2").tobytes()
    done = board.run(["-m", "edgeemo_runtime.ops.cli", str(artifact), "-", "--json"], stdin=pcm)
    assert done.returncode == 0, done.stderr.decode()
    return np.array([list(json.loads(line)["probabilities"].values()) for line in done.stdout.splitlines()])


def test_board_equals_host_and_onnx_runtime(
    board_artifact: Path, host_artifacts: dict[str, Path], files: dict[str, Path]
) -> None:
    """The same bounds as on the host (tests/compile/test_parity.py), for the same reasons; and the same label for the clip."""
    for clip in (0, 100, 140):  # none a tie: two labels within 0.001, as in clip 66, have no order to keep
        call = (np.round(speech(clip, STEPS) * 32768).astype(np.int16) / np.float32(32768)).astype(np.float32)
        got = on_board(board_artifact, call)
        for reference in (ArtifactModel(host_artifacts["int8"]), OnnxModel(files["int8"])):
            (expected,) = reference.run([call])
            assert got.shape == expected.shape
            off = np.abs(got - expected)
            assert off.mean() <= MEAN
            assert np.percentile(off, 99) <= OF_A_HUNDRED
            assert off.max() <= MOST
            assert got.mean(axis=0).argmax() == expected.mean(axis=0).argmax()


IMAGES = {"depthwise": residual_block, "grouped and spread": grouped_block}


@pytest.mark.parametrize(("target", "cpu"), [("aarch64-neon", "cortex-a72"), ("pi5", "cortex-a76")])
@pytest.mark.parametrize("kind", ["float", "int8-min-max", DEFAULT_RECIPE])
@pytest.mark.parametrize("name", IMAGES)
def test_images_on_the_board_are_as_on_the_host(name: str, kind: str, target: str, cpu: str, tmp_path: Path) -> None:
    """Convolutions over two dimensions through edgeemo-run feed."""
    model = IMAGES[name]() if kind == "float" else quantized(IMAGES[name](), tmp_path, load_recipe(kind))
    made, function = compiled(model, tmp_path)
    assert made.stock_products == []
    (tmp_path / "m.edgeemo").write_bytes(compile_onnx(tmp_path / "m.onnx", load_target(target)).archive)
    feed = made_up(model, 3, 9)
    np.savez(tmp_path / "in.npz", **feed)  # type: ignore[arg-type]
    arguments = ["feed", str(tmp_path / "m.edgeemo"), str(tmp_path / "in.npz"), "--out", str(tmp_path / "out.npz")]
    done = board.run(["-m", "edgeemo_runtime.ops.cli", *arguments], cpu=cpu)
    assert done.returncode == 0, done.stderr.decode()
    with np.load(tmp_path / "out.npz") as got:
        np.testing.assert_allclose(got["y"], function.run(feed)["y"], rtol=1e-4, atol=1e-5 if kind == "float" else 0.01)


OPERATED = """
import sys
from pathlib import Path
import numpy as np
from edgeemo_runtime import PRESETS, Engine
from edgeemo_runtime.ops import store
folder, old, new, calls = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), np.load(sys.argv[4])
first, second = (store.install(artifact, folder) for artifact in (old, new))
assert store.current(folder).name == second
assert store.rollback(folder) == first
engine = Engine(store.current(folder), len(calls), PRESETS["raw"])
versions = [engine.model.version, engine.start_canary(folder / second, 0.05).version]
streams = [engine.open(user) for user in ("caller-1704", "caller-1705", "caller-1788")]
moved = engine.model.ring_samples // engine.samples_per_step  # hops that a ring holds, and a replay gives back
answers, models = [], []
for step in range(calls.shape[1]):
    if step == moved:
        engine.end_canary(promote=True)
    for stream, call in zip(streams, calls):
        stream.push(call[step])
    results = engine.step()
    answers.append(results.probabilities.copy())
    models.append([versions.index(m) for m in results.models])
def alone(artifact, call):
    engine = Engine(artifact, 1, PRESETS["raw"])
    stream = engine.open()
    rows = []
    for samples in call:
        stream.push(samples)
        rows.append(engine.step().probabilities[0].copy())
    return np.array(rows)
answers, models = np.stack(answers, axis=1), np.array(models).T
assert moved > 2 and models.tolist() == [[1] * 9, *2 * [[0] * moved + [1] * (9 - moved)]], models
np.testing.assert_array_equal(answers[0], alone(new, calls[0]))
for call in (1, 2):
    np.testing.assert_array_equal(answers[call][:moved], alone(old, calls[call][:moved]))
    np.testing.assert_array_equal(answers[call][moved:], alone(new, calls[call])[moved:])
print("operated")
"""


def test_models_are_installed_rolled_back_tried_and_swapped_on_the_board(
    board_artifact: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """Two models side by side; calls that move replay the hops of their ring, here all that they had."""
    other = tmp_path / "fp16.edgeemo"
    other.write_bytes(compile_onnx(files["fp16"], load_target("aarch64-neon")).archive)
    calls = np.stack([speech(clip, 9).reshape(9, -1) for clip in (0, 100, 140)]).astype(np.float32)
    np.save(tmp_path / "calls.npy", calls)
    (tmp_path / "operate.py").write_text(OPERATED)
    arguments = [tmp_path / "models", board_artifact, other, tmp_path / "calls.npy"]
    done = board.script(tmp_path / "operate.py", *map(str, arguments))
    assert done.stdout.decode().strip() == "operated", done.stderr.decode()


BOTH_WAYS = """
import sys
import numpy as np
from edgeemo_runtime import PRESETS, Engine
calls = np.load(sys.argv[2])
def answers(compiled):
    engine = Engine(sys.argv[1], len(calls), PRESETS["call-centre"], clock=lambda: 0.0)
    serves = engine._compiled.serves
    assert serves(engine.model, np.arange(len(calls)))
    engine._compiled.serves = lambda model, slots: compiled and serves(model, slots)
    streams = [engine.open() for _ in calls]
    for step in range(calls.shape[1]):
        for stream, call in zip(streams, calls):
            stream.push(call[step])
        found = engine.step()
        yield [found.probabilities, found.smoothed, found.label, found.handoff, found.start_s, found.end_s]
for step, (ours, theirs) in enumerate(zip(answers(True), answers(False), strict=True)):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b, str(step))
print("the same")
"""


def test_compiled_rules_on_the_board_are_those_of_numpy(board_artifact: Path, tmp_path: Path) -> None:
    calls = np.stack([speech(clip, STEPS).reshape(STEPS, -1) for clip in (0, 100, 140)]).astype(np.float32)
    np.save(tmp_path / "calls.npy", calls)
    (tmp_path / "both.py").write_text(BOTH_WAYS)
    done = board.script(tmp_path / "both.py", str(board_artifact), str(tmp_path / "calls.npy"))
    assert done.stdout.decode().strip() == "the same", done.stderr.decode()


def test_nothing_but_declared_dependencies_is_there() -> None:
    code = "import edgeemo_runtime, sys; print([m for m in ('torch', 'onnx', 'tvm', 'soundfile') if m in sys.modules])"
    done = board.run(["-c", code])
    assert done.stdout.decode().strip() == "[]", done.stderr.decode()
    for absent in ("torch", "onnx", "tvm", "soundfile"):
        assert board.run(["-c", f"import {absent}"]).returncode != 0


def test_files_without_the_extra_say_what_to_install(board_artifact: Path, tmp_path: Path) -> None:
    done = board.run(["-m", "edgeemo_runtime.ops.cli", str(board_artifact), str(tmp_path / "a.wav")])
    assert done.returncode == 1
    assert b"pip install soundfile soxr" in done.stderr


KERNEL_ON_BOARD = """
import sys, numpy as np, tvm_ffi
run = tvm_ffi.load_module(sys.argv[1])["run"]
with np.load(sys.argv[2]) as data:
    arrays = [data[f"x{i}"] for i in range(len(data.files) - 1)]
    batch = int(data["batch"])
def aligned(a):
    raw = np.zeros(a.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start:start + a.nbytes].view(a.dtype)
    out[:] = a.ravel()
    return out
copies = [aligned(a) for a in arrays]
run(batch, *[tvm_ffi.from_dlpack(c) for c in copies])
np.save(sys.argv[3], copies[-1])
"""


@pytest.mark.parametrize("index", range(6))
def test_neon_int8_product_is_exact(tmp_path: Path, index: int) -> None:
    """SMULL + SMLAL2 + SADALP against int64 sums, extremes included, over shapes that do not fit the tiles."""
    import tvm

    from edgeemo.compile.kernels import gemm, pack
    from tests.compile.test_kernels import CASES, inputs, with_caller

    case, batch = CASES[index], 5
    spec, a, w, expected = inputs(case, batch, np.random.default_rng(index), integer=True)
    out = np.zeros((batch, case.rows, case.n), dtype=np.float32)
    arrays = [a, pack.pack_s8(w), pack.pad_columns(np.ones(case.n), case.groups), out]
    target = load_target("aarch64-neon")
    module = tvm.tirx.build(with_caller(gemm.build(spec, target.kernels), arrays), target=target.tvm_target())
    module.write_to_file(str(tmp_path / "k.o"), "o")
    link_shared(tmp_path / "k.o", tmp_path / "k.so", target)
    np.savez(tmp_path / "in.npz", batch=batch, **{f"x{i}": x for i, x in enumerate(arrays)})
    (tmp_path / "run.py").write_text(KERNEL_ON_BOARD)
    done = board.script(tmp_path / "run.py", str(tmp_path / "k.so"), str(tmp_path / "in.npz"), str(tmp_path / "out.npy"))
    assert done.returncode == 0, done.stderr.decode()
    got = np.load(tmp_path / "out.npy").reshape(expected.shape)
    np.testing.assert_array_equal(got.astype(np.int64), expected)
