"""The committed model for the Pi 5, on an emulated Cortex-A76: the host's answers, by dot products."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeemo.compile.codegen.verify import instructions
from edgeemo.compile.compiler import compile_onnx
from edgeemo.data.clips import find_clips
from edgeemo.evaluate.evaluate import ArtifactModel
from edgeemo.quantize.plan import quantize_model
from edgeemo.quantize.recipe import Recipe
from edgeemo.targets.board import load_target
from tests.aarch64 import board
from tests.compile.test_parity import MEAN, MOST, OF_A_HUNDRED
from tests.conftest import CALIBRATION, speech

pytestmark = [pytest.mark.slow, pytest.mark.qemu, pytest.mark.skipif(not board.available(), reason=board.REASON)]
STEPS = 30


@pytest.fixture(scope="module")
def artifact(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pi5") / "m.edgeemo"
    path.write_bytes(compile_onnx(files["int8"], load_target("pi5")).archive)
    return path


def answers(artifact: Path, host: Path, clip: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a call's steps: of an emulated Pi 5, of this machine."""
    call = (np.round(speech(clip, STEPS) * 32768).astype(np.int16) / np.float32(32768)).astype(np.float32)
    pcm = np.round(call * 32768).astype("<i2").tobytes()
    done = board.run(["-m", "edgeemo_runtime.ops.cli", str(artifact), "-", "--json"], stdin=pcm, cpu="cortex-a76")
    assert done.returncode == 0, done.stderr.decode()
    got = np.array([list(json.loads(line)["probabilities"].values()) for line in done.stdout.splitlines()])
    return got, ArtifactModel(host).run([call])[0]


def texts(artifact: Path, folder: Path) -> list[str]:
    """The instructions of its code."""
    with zipfile.ZipFile(artifact) as archive:
        library = Path(archive.extract("step.so", folder))
    return [text for _, text in instructions(library, load_target("pi5"))]


def test_the_pi_5_answers_as_the_host(artifact: Path, host_artifacts: dict[str, Path]) -> None:
    """Within the bounds of tests/compile/test_parity.py, and the same label for the clip."""
    for clip in (0, 100, 140):
        got, expected = answers(artifact, host_artifacts["int8"], clip)
        assert got.shape == expected.shape
        off = np.abs(got - expected)
        assert off.mean() <= MEAN and np.percentile(off, 99) <= OF_A_HUNDRED and off.max() <= MOST
        assert got.mean(axis=0).argmax() == expected.mean(axis=0).argmax()


def test_a_model_in_halves_answers_as_in_float(
    float_onnx: onnx.ModelProto, host_artifacts: dict[str, Path], tmp_path: Path
) -> None:
    """All products by FP16 arithmetic, which only such a core has: the host widens, and float is what both are near to."""
    recipe = Recipe().keep((".*",), "fp16", "--keep-fp16")
    onnx.save(quantize_model(float_onnx, "m", find_clips(CALIBRATION)[:1], recipe)[0], tmp_path / "m.onnx")
    made = compile_onnx(tmp_path / "m.onnx", load_target("pi5"))
    (tmp_path / "m.edgeemo").write_bytes(made.archive)
    got, expected = answers(tmp_path / "m.edgeemo", host_artifacts["float"], 100)
    assert np.abs(got - expected).max() <= 0.02 and np.abs(got - expected).mean() <= 0.003
    products = [text for text in texts(tmp_path / "m.edgeemo", tmp_path) if text.startswith("fmla")]
    assert sum(".8h" in text for text in products) > 1000


def test_its_int8_products_are_dot_products(artifact: Path, tmp_path: Path) -> None:
    """Nothing is left of the way that needs SADALP, in products and attention's scores alike."""
    mnemonics = [text.split(" ", 1)[0] for text in texts(artifact, tmp_path)]
    assert mnemonics.count("sdot") > 1000 and "sadalp" not in mnemonics
