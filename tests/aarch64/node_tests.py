"""ONNX's own node tests through the whole chain: `python -m tests.aarch64.node_tests [--from N] [NAME ...]`; `make foreign` does.

The first dimension is taken for the batch where all inputs share it. Where they do not, inputs of another first dimension become
constants (axes, shapes, indices, scales), as real files hold them. Each test is adapted, compiled for this machine, run, and
compared with ONNX Runtime (of the graph as given, one item at a time), or with the outputs that the test itself brings where ONNX
Runtime has no such operator, or does not run the graph. Prints how many match, are refused, end in another error, and differ.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from edgeemo_runtime import EdgeEmoError, Function
from onnx import numpy_helper

from edgeemo.adapt.adapt import adapt
from edgeemo.compile.compiler import compile_onnx
from edgeemo.onnxlib.difference import difference
from edgeemo.onnxlib.session import open_session
from edgeemo.targets.board import load_target

CLOSE = 1e-4  # of the largest magnitude of an output
CLOSE_HALVES = 2e-3  # of half precision, where the reference rounds in other places


Arrays = dict[str, np.ndarray]


def cases() -> list[tuple[str, onnx.ModelProto, Arrays, Arrays]]:
    """(name, model, inputs, outputs) of every test of single tensors, batched inputs only; the others are in the model."""
    from onnx.backend.test.case.node import collect_testcases

    found = []
    for test in collect_testcases(None):
        model, inputs = test.model, test.data_sets[0][0]
        if any(not isinstance(a, np.ndarray | np.generic) for a in (*inputs, *test.data_sets[0][1])) or not len(inputs):
            continue  # sequences, optionals; nothing to batch
        feed = {info.name: np.asarray(a) for info, a in zip(model.graph.input, inputs, strict=False)}
        first = next(iter(feed.values())).shape[:1]
        if not first or not first[0]:
            continue
        batched = {n: a for n, a in feed.items() if a.shape[:1] == first}
        given = onnx.ModelProto()
        given.CopyFrom(model)
        for name, array in feed.items():
            if name not in batched:
                given.graph.initializer.append(numpy_helper.from_array(array, name))
                given.graph.input.remove(next(i for i in given.graph.input if i.name == name))
        wanted = {o.name: np.asarray(a) for o, a in zip(model.graph.output, test.data_sets[0][1], strict=True)}
        found.append((test.name, given, batched, wanted))
    return found


def attempt(model: onnx.ModelProto, feed: Arrays, brought: Arrays, folder: Path) -> str:
    """match, refused: ..., or the difference."""
    shapes = {n: ("batch", *a.shape[1:]) for n, a in feed.items()}
    try:
        onnx.save(adapt(model, "m", shapes, {}).model, folder / "m.onnx")
        (folder / "m.edgeemo").write_bytes(compile_onnx(folder / "m.onnx", load_target("host")).archive)
    except EdgeEmoError as error:
        return f"refused: {error}" if "unforeseen" not in str(error) and "crashed" not in str(error) else f"error: {error}"
    got = Function(folder / "m.edgeemo").run(feed)
    close = CLOSE
    try:
        wanted = _by_onnx_runtime(model, feed)
    except Exception:  # ONNX Runtime raises types of its own
        close = CLOSE_HALVES if any(a.dtype == np.float16 for a in brought.values()) else CLOSE
        wanted = [{n: a[i : i + 1] for n, a in brought.items()} for i in range(len(next(iter(feed.values()))))]
    for name in wanted[0]:
        reference = np.stack([outputs[name].ravel() for outputs in wanted])
        off = difference(got[name], reference)  # over the output's largest magnitude, as `edgeemo compile` has it
        if not off <= close:
            return f"differs: {name} by {off:.2g}"
    return "match"


def _by_onnx_runtime(model: onnx.ModelProto, feed: Arrays) -> list[Arrays]:
    """Outputs of every item alone, of the graph as given."""
    given = onnx.ModelProto()
    given.CopyFrom(model)
    for value in (*given.graph.input, *given.graph.output):
        value.type.tensor_type.ClearField("shape")
    del given.graph.value_info[:]
    given.ir_version = min(given.ir_version, 10)
    session = open_session(given)
    names = [o.name for o in session.get_outputs()]
    return [
        dict(zip(names, map(np.asarray, session.run(None, {n: a[item : item + 1] for n, a in feed.items()})), strict=True))
        for item in range(len(next(iter(feed.values()))))
    ]


def main() -> None:
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    asked = sys.argv[1:]
    first = int(asked.pop(1)) if asked[:1] == ["--from"] else 0
    for name, model, feed, brought in cases()[first:]:
        if asked and name not in asked and not first:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = attempt(model, feed, brought, Path(folder))
            except Exception as error:  # anything but a refusal is a defect
                outcome = f"error: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        counts[outcome.partition(":")[0]] += 1
        if outcome != "match":
            print(f"{name:60} {outcome}", flush=True)
    print(", ".join(f"{n} {kind}" for kind, n in counts.most_common()), f"of {sum(counts.values())}")


if __name__ == "__main__":
    main()
