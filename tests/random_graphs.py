"""Random graphs of the supported operators, with random attributes and shapes: `python -m tests.random_graphs COUNT [SEED]`.

Each is refused in one line that names something, or gives ONNX Runtime's numbers. Prints those that do neither.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from edgeemo_runtime import EdgeEmoError, Function

from edgeemo.adapt.adapt import adapt
from edgeemo.compile.check import check_artifact
from edgeemo.compile.compiler import compile_onnx
from edgeemo.onnxlib.difference import difference
from edgeemo.onnxlib.session import open_session
from edgeemo.targets.board import load_target
from tests.random_operators import MAKERS, Graph, model_of

ITEMS = 3
CLOSE = 1e-4


def random_graph(seed: int) -> onnx.ModelProto:
    """x (n, ...) float -> y, by one to eight nodes."""
    g = Graph(seed)
    for _ in range(g.draw.randint(1, 8)):
        if int(np.prod(g.shape)) > 4096:
            break
        g.draw.choice(MAKERS)(g)
    return model_of(g)


def outcome(model: onnx.ModelProto, folder: Path) -> str:
    """ "match", "refused", or what is wrong."""
    try:
        adapted = adapt(model, "m.onnx", {}, {}).model
        onnx.save(adapted, folder / "m.onnx")
        archive = compile_onnx(folder / "m.onnx", load_target("host")).archive
        check_artifact(folder / "m.onnx", archive)
    except EdgeEmoError as error:
        if "report it" in str(error) or "adapted, output" in str(error):  # the verb's own comparison: no refusal, a defect
            return f"differs: {error}"
        if "unforeseen" in str(error) or "crashed" in str(error) or "\n" in str(error):
            return f"no word: {error}"
        return f"refused: {error}"
    (folder / "m.edgeemo").write_bytes(archive)
    size = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(9).standard_normal((ITEMS, *size)).astype(np.float32)
    got, wanted = Function(folder / "m.edgeemo").run({"x": x})["y"], open_session(model)
    alone = [wanted.run(None, {"x": x[i : i + 1]})[0] for i in range(ITEMS)]
    # Where the last bits of the inputs decide (ties, steps, poles), no two programs agree.
    near = [wanted.run(None, {"x": x[i : i + 1] * np.float32(1 + 2.0**-21)})[0] for i in range(ITEMS)]
    reference = np.concatenate(alone)
    # Over the output's largest magnitude, as `edgeemo compile` has it: the smallest of its items may be all rounding.
    if (off := difference(got, reference)) > max(CLOSE, 16 * difference(np.concatenate(near), reference)):
        return f"differs: by {off:.2g}"
    return "match"


def main() -> None:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    counts: Counter[str] = Counter()
    begun = time.time()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = outcome(random_graph(seed), Path(folder))
            except Exception as error:  # anything but a refusal is a defect
                found = f"error {type(error).__name__}: {error}"
        counts[found.partition(":")[0][:12]] += 1
        if found != "match":
            print(seed, found[:300], flush=True)
        if (seed - first) % 200 == 199:
            print(f"-- {seed - first + 1} in {time.time() - begun:.0f} s: {dict(counts)}", flush=True)


if __name__ == "__main__":
    main()
