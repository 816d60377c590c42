"""Whether an artifact computes what its model does: both are run on this machine, beside each other, before anything is written.

The host's artifact goes by the same importer and passes as a board's. Float outputs may differ from ONNX Runtime's by CLOSE of an
output's largest magnitude, or by what noise of the last bits in the inputs makes of it, where that is more. INT8 models may
differ by NOISE: their sums are exact on both sides, but a float between two layers that rounds to the next level moves what
follows.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.function import Function
from edgeemo_runtime.model import Model

from edgeemo.adapt.feeds import Feed, made_up, read_feed
from edgeemo.adapt.fold import dims
from edgeemo.compile.compiler import Compiled, compile_here
from edgeemo.compile.targets import BoardTarget, load_target
from edgeemo.console import progress_bar
from edgeemo.evaluate.onnx_stream import OnnxStream, open_session
from edgeemo.export.contract import KEY, StreamContract, read_contract
from edgeemo.export.load import load_onnx
from edgeemo.isolated import Job, isolated
from edgeemo.quantize.sources import find_feeds

CLOSE = 1e-4  # of the largest magnitude of an output
NOISE = 0.05  # of an INT8 model's output's norm
LAST_BITS = 2.0**-22  # of an input: half of what float32 distinguishes
AMPLIFIED = 16  # an artifact rounds in every operator, not in the inputs alone
ITEMS = 3  # at once, and one by one
FEEDS = 8  # files at most
HOPS = 24  # of a stream: every cache and ring comes into play
Outputs = dict[str, np.ndarray]  # by name, (items, ...)


def compile_checked(
    path: str | Path, target: BoardTarget, dump_folder: Path | None = None, feeds: Path | None = None
) -> Compiled:
    """The artifact of a model file for a board, compared with ONNX Runtime by way of this machine's. ``feeds``: a folder of .npz
    files to compare on; made-up inputs if None.

    Raises EdgeEmoError naming the file, node or operator that does not compile, or the first tensor that comes out otherwise.
    """
    host = load_target("host")
    # Both at once: two cores take hardly longer than for one.
    with (
        _progress(f"compiling for {target.name}, comparing with ONNX Runtime", 3) as advance,
        Job(f"{path}: compiling for {target.name}", compile_here, path, target, dump_folder, True) as job,
    ):
        here = (
            job.result() if target.name == host.name else isolated(f"{path}: compiling for the check", compile_here, path, host)
        )
        advance(1)
        isolated(f"{path}: checking", check_artifact, Path(path), here.archive, feeds)
        advance(1)
        made = job.result()
        advance(1)
        return made


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere nothing: a refusal is one line."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    with progress_bar(what, total) as advance:
        yield advance


def check_artifact(path: Path, archive: bytes, feeds: Path | None = None) -> None:
    """``archive``: of the model in ``path``, for this machine. Raises EdgeEmoError naming the first tensor that is wrong."""
    model = load_onnx(path)
    contract = read_contract(model, str(path))
    with tempfile.TemporaryDirectory(prefix="edgeemo-") as folder:
        artifact = Path(folder, "host.edgeemo")
        artifact.write_bytes(archive)
        if contract is not None:
            wanted, found = _stream_outputs(model, contract, artifact)
            if problem := _differs(found, wanted, wanted, _is_int8(model)):
                raise EdgeEmoError(f"{path}: compiled, {problem}; report it; --no-check compiles it all the same")
            return
        for feed in [read_feed(file, model) for file in find_feeds(feeds)[:FEEDS]] if feeds else [_runnable_feed(model, path)]:
            if problem := _problem(model, artifact, feed):
                where = _first_wrong(model, feed, Path(folder))
                raise EdgeEmoError(f"{path}: compiled, {problem}{where}; report it; --no-check compiles it all the same")


def _problem(model: onnx.ModelProto, artifact: Path, feed: Feed) -> str:
    """What is wrong with an artifact's outputs, "" if nothing is."""
    function = Function(artifact)
    wanted = _run(model, feed)
    nearby = _run(model, _nearby(feed))
    together = function.run(feed)
    count = len(next(iter(feed.values())))
    each = [function.run({n: a[i : i + 1] for n, a in feed.items()}) for i in range(min(count, ITEMS))]
    alone = {n: np.concatenate([one[n] for one in each]) for n in together}
    first = {n: a[: len(each)] for n, a in wanted.items()}
    int8 = _is_int8(model)
    if problem := _differs(together, wanted, nearby, int8):
        return problem
    if problem := _differs(alone, first, {n: a[: len(each)] for n, a in nearby.items()}, int8):
        return f"one item at a time, {problem}"
    return ""


def _differs(found: Outputs, wanted: Outputs, nearby: Outputs, int8: bool) -> str:
    """Names the first output that is not as ONNX Runtime's; "" if all are. ``nearby``: ONNX Runtime's for inputs that differ in
    the last bits."""
    for name, reference in wanted.items():
        got = found[name]
        if got.shape != reference.shape:
            return f"output {name} is {got.shape} where ONNX Runtime gives {reference.shape}"
        with np.errstate(all="ignore"):
            off, allowed = _difference(got, reference, int8), CLOSE if not int8 else NOISE
            if off > allowed and not off <= AMPLIFIED * _difference(nearby[name], reference, int8):
                return f"output {name} differs from ONNX Runtime's by {off:.2g} of its {'norm' if int8 else 'largest'}"
    return ""


def _difference(got: np.ndarray, reference: np.ndarray, int8: bool) -> float:
    """Over the reference's largest magnitude (INT8: norms). Infinite where one is finite and the other is not."""
    a, b = got.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    a, b = a[~same], b[~same]
    if not a.size:
        return 0.0
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    whole = reference.astype(np.float64)[np.isfinite(reference)]
    if int8:
        return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(whole)), 1e-6)
    return float(np.abs(a - b).max()) / max(float(np.abs(whole).max(initial=0)), 1e-6)


def _is_int8(model: onnx.ModelProto) -> bool:
    return any(n.op_type == "QuantizeLinear" for n in model.graph.node)


def _run(model: onnx.ModelProto, feed: Feed) -> Outputs:
    return dict(zip([o.name for o in model.graph.output], open_session(model).run(None, feed), strict=True))


def _runnable_feed(model: onnx.ModelProto, path: Path) -> Feed:
    """Made-up inputs that ONNX Runtime takes: indices of whole numbers may be of a short table."""
    error: Exception | None = None
    for below in (10, 2, 1):
        feed = made_up(model, ITEMS, whole=below)
        try:
            _run(model, feed)
        except Exception as refused:  # ONNX Runtime raises types of its own
            error = refused
        else:
            return feed
    said = str(error).splitlines()[0][:200]
    raise EdgeEmoError(
        f"{path}: made-up inputs do not run in ONNX Runtime ({said}); --feeds names a folder of real ones, or --no-check"
    )


def _nearby(feed: Feed) -> Feed:
    signs = np.random.default_rng(1)
    return {
        n: a if a.dtype.kind != "f" else (a * (1 + LAST_BITS * signs.choice([-1, 1], a.shape))).astype(a.dtype)
        for n, a in feed.items()
    }


def _stream_outputs(model: onnx.ModelProto, contract: StreamContract, artifact: Path) -> tuple[Outputs, Outputs]:
    """Probabilities of some calls, in ONNX Runtime and compiled, all at once and the last one alone again."""
    noise = np.random.default_rng(0)
    loudness = 10.0 ** noise.uniform(-3, -0.5, (HOPS, ITEMS, 1))  # pauses and shouting
    audio = (noise.standard_normal((HOPS, ITEMS, contract.samples_per_step)) * loudness).astype(np.float32)
    reference = OnnxStream(model, contract)
    reference.reset(ITEMS)
    compiled, alone = Model(artifact, ITEMS), Model(artifact, 1)
    wanted, found, last = [], [], []
    for hop in audio:
        wanted.append(reference.probabilities(hop))
        compiled.audio[:ITEMS] = hop
        found.append(compiled.run(np.arange(ITEMS)).copy())
        alone.audio[:1] = hop[-1:]
        last.append(alone.run(np.arange(1)).copy())
    name, whole = contract.probabilities, np.concatenate(wanted, axis=1)
    single = f"{name} (one call alone)"
    return {name: whole, single: whole[-1:]}, {name: np.concatenate(found, axis=1), single: np.concatenate(last, axis=1)}


def _first_wrong(model: onnx.ModelProto, feed: Feed, folder: Path) -> str:
    """Halves the graph until one tensor is left that is wrong where what it is made of is right."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
    nodes = [n for n in model.graph.node if n.output and n.output[0] in known and _can_be_output(known[n.output[0]])]
    right, wrong = -1, len(nodes)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        right, wrong = (right, middle) if _is_wrong(model, known[nodes[middle].output[0]], feed, folder) else (middle, wrong)
    if wrong == len(nodes):
        return ""
    node = nodes[wrong]
    return f"; the first wrong tensor is {node.output[0]}, of node {node.name or node.output[0]} ({node.op_type})"


def _can_be_output(value: onnx.ValueInfoProto) -> bool:
    shape, kind = dims(value), value.type.tensor_type.elem_type
    whole = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return bool(shape) and isinstance(shape[0], str) and all(isinstance(d, int) for d in shape[1:]) and kind not in whole


def _is_wrong(model: onnx.ModelProto, value: onnx.ValueInfoProto, feed: Feed, folder: Path) -> bool:
    part = onnx.ModelProto()
    part.CopyFrom(model)
    kept: list[onnx.NodeProto] = []
    wanted = {value.name}
    for node in reversed(part.graph.node):
        if wanted & set(node.output):
            kept.insert(0, node)
            wanted |= set(node.input)
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(kept)
    part.graph.output.append(value)
    onnx.helper.set_model_props(part, {p.key: p.value for p in part.metadata_props if p.key != KEY})
    file = folder / "part.onnx"
    onnx.save(part, file)
    artifact = file.with_suffix(".edgeemo")
    try:
        artifact.write_bytes(compile_here(file, load_target("host")).archive)
        return bool(_problem(part, artifact, feed))
    except EdgeEmoError:
        return False  # by itself it does not compile: what is behind it will be named
