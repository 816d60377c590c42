"""On the emulated Cortex-A72 the C library answers as Python does there, to the bit: golden streams, random histories of packets,
gaps and swaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeemo.compile.compiler import compile_onnx
from edgeemo.targets.board import load_target
from tests.aarch64 import board
from tests.c.building import build_for_board
from tests.compile.test_parity import GOLDEN, MEAN, MOST, OF_A_HUNDRED
from tests.conftest import speech
from tests.golden.make import golden_artifact

pytestmark = [pytest.mark.slow, pytest.mark.qemu, pytest.mark.skipif(not board.available(), reason=board.REASON)]
SCRIPT = Path(__file__).parent / "on_board.py"
EVENTS = "120"


@pytest.fixture(scope="module")
def board_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_for_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def other_artifact(files: dict[str, Path]) -> Path:
    """Another model for the board, to swap to."""
    path = files["fp16"].with_suffix(".board.edgeemo")
    path.write_bytes(compile_onnx(files["fp16"], load_target("aarch64-neon")).archive)
    return path


def both(library: Path, sounds: list[np.ndarray], folder: Path, *arguments: str) -> Any:
    np.savez(folder / "sounds.npz", *sounds)
    done = board.script(SCRIPT, str(library), str(folder / "sounds.npz"), *arguments)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


def test_golden_streams(board_library: Path, float_onnx: onnx.ModelProto, tmp_path: Path) -> None:
    """C equals Python; and both are as close to the host's answers as INT8 is between machines."""
    golden, artifact = json.loads(GOLDEN.read_text()), golden_artifact(float_onnx, tmp_path, "aarch64-neon")
    sounds = [speech(entry["clip"], len(entry["probabilities"])).astype(np.float32) for entry in golden]
    said = np.array(both(board_library, sounds, tmp_path, "golden", str(artifact)))
    off = np.abs(said - np.array([entry["probabilities"] for entry in golden]))
    assert off.mean() <= MEAN and np.percentile(off, 99) <= OF_A_HUNDRED and off.max() <= MOST


@pytest.mark.parametrize("name", ["defaults", "newest audio, one hop", "gaps reset", "offsets"])
def test_histories(board_library: Path, board_artifact: Path, sounds: list[np.ndarray], tmp_path: Path, name: str) -> None:
    said = both(board_library, sounds, tmp_path, "histories", name, "1", EVENTS, str(board_artifact))
    assert said["answers"] > 10


@pytest.mark.parametrize("name", ["defaults", "phases"])
def test_histories_with_swaps(
    board_library: Path, board_artifact: Path, other_artifact: Path, sounds: list[np.ndarray], tmp_path: Path, name: str
) -> None:
    said = both(board_library, sounds, tmp_path, "histories", name, "1", EVENTS, str(board_artifact), str(other_artifact))
    assert said["answers"] > 10 and said["swaps"] + said["canaries"] > 2
