"""An artifact on a core that lacks what its code uses: refused in a line and never executed, by Python's runtime and by C's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeemo.compile.compiler import compile_onnx
from edgeemo.onnxlib.feeds import made_up
from edgeemo.targets.board import load_target
from tests.aarch64 import board
from tests.conftest import ROOT
from tests.graphs import compiled, residual_block

pytestmark = [pytest.mark.slow, pytest.mark.qemu, pytest.mark.skipif(not board.available(), reason=board.REASON)]
C_PROGRAM = """
#include <stdio.h>
#include <edgeemo.h>
int main(int count, char **names) {
  edgeemo_model *model = NULL;
  const edgeemo_status status = count == 2 ? edgeemo_model_load(names[1], NULL, &model) : EDGEEMO_OK;
  puts(status == EDGEEMO_OK ? "loaded" : edgeemo_last_error());
  return status != EDGEEMO_OK;
}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A folder with m.edgeemo for the Pi 5 and in.npz; the inputs, and what the host makes of them."""
    folder = tmp_path_factory.mktemp("needs")
    model = residual_block()
    _, function = compiled(model, folder)
    (folder / "m.edgeemo").write_bytes(compile_onnx(folder / "m.onnx", load_target("pi5")).archive)
    feed = made_up(model, 3, 9)
    np.savez(folder / "in.npz", **feed)  # type: ignore[arg-type]
    return folder, feed, function.run(feed)


def test_a_pi_5_s_artifact_runs_on_a_pi_5_and_is_refused_on_a_pi_4(files: tuple[Path, dict, dict], tmp_path: Path) -> None:
    folder, _, expected = files
    arguments = ["-m", "edgeemo_runtime.ops.cli", "feed", str(folder / "m.edgeemo"), str(folder / "in.npz"), "--out"]
    done = board.run([*arguments, str(tmp_path / "out.npz")], cpu="cortex-a76")
    assert done.returncode == 0, done.stderr.decode()
    with np.load(tmp_path / "out.npz") as got:
        np.testing.assert_allclose(got["y"], expected["y"], rtol=1e-4, atol=1e-5)
    refused = board.run([*arguments, str(tmp_path / "none.npz")])
    said = refused.stderr.decode()
    assert refused.returncode == 1 and refused.stdout == b"" and said.count("\n") == 1
    assert "is for cortex-a76, this machine lacks its dotprod, fullfp16, lse, rcpc, rdm; " in said
    assert "--target aarch64-neon" in said
    assert not (tmp_path / "none.npz").exists()


def test_the_c_library_refuses_it_as_well(files: tuple[Path, dict, dict], tmp_path: Path) -> None:
    folder, _, _ = files
    (tmp_path / "load.c").write_text(C_PROGRAM)
    source = ROOT / "runtime" / "c"
    sources = [source / "src" / "edgeemo.c", source / "vendor" / "monocypher_edgeemo.c", tmp_path / "load.c"]
    flags = ["-std=c99", "-O1", "-I", str(source / "include"), "-lm", "-o", str(tmp_path / "load")]
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.36", *map(str, sources), *flags]
    subprocess.run(command, check=True, capture_output=True)
    done = {
        cpu: subprocess.run(
            ["qemu-aarch64", "-cpu", cpu, "-L", board.HOME / "root", tmp_path / "load", folder / "m.edgeemo"],
            capture_output=True, check=False, text=True, timeout=60,
        )
        for cpu in ("cortex-a72", "cortex-a76")
    }  # fmt: skip
    assert (done["cortex-a76"].returncode, done["cortex-a76"].stdout) == (0, "loaded\n"), done["cortex-a76"]
    assert done["cortex-a72"].returncode == 1
    said = done["cortex-a72"].stdout
    assert "is for cortex-a76, this machine lacks its dotprod; " in said and "--target aarch64-neon" in said
