"""Whether an artifact computes what its model does: both are run on this machine, next to each other, before anything is written.

The host's artifact goes by the same importer and passes as a board's. Float outputs may differ from ONNX Runtime's by CLOSE of an
output's largest magnitude, or by what noise of the last bits in the inputs makes of it, where that is more. INT8 models may
differ by NOISE: their sums are exact on both sides, but a float between two layers that rounds to the next level moves what
follows. Where that makes more of it, ONNX Runtime does not agree with itself either once floats before its quantizers are off in
their last bits. Where it is the last operator that makes more of it (a Sigmoid of -30 and -31), what goes into that is compared,
and what it makes of its own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.function import Function
from edgeemo_runtime.model import Model

from edgeemo.compile.bisect import first_bad_node, part_of, possible_outputs, tensor_of
from edgeemo.compile.compiler import Compiled, compile_here
from edgeemo.console import progress_bar, warn
from edgeemo.isolated import Job, isolated
from edgeemo.onnxlib.contract import StreamContract, read_contract
from edgeemo.onnxlib.difference import AMPLIFIED, difference, nearby, rounded_otherwise
from edgeemo.onnxlib.feeds import Feed, find_feeds, read_feed, runnable
from edgeemo.onnxlib.load import load_onnx
from edgeemo.onnxlib.session import OnnxStream, open_session
from edgeemo.targets.board import BoardTarget, load_target

CLOSE = 1e-4  # of the largest magnitude of an output
NOISE = 0.05  # of an INT8 model's output's norm
ROUNDED = 2  # times what ONNX Runtime differs from itself in INT8, rounded otherwise: one draw; ours was 0.8 to 1.3 times that
ITEMS = 3  # at once, and one by one
FEEDS = 8  # files at most
HOPS = 24  # of a stream: every cache and ring comes into play
CALLS = 16  # of a stream: one by itself may be twice as far from ONNX Runtime as they are together
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
        doubts = isolated(f"{path}: checking", check_artifact, Path(path), here.archive, feeds)
        advance(1)
        made = job.result()
        advance(1)
    warn(doubts)
    return made


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere nothing: a refusal is one line."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    with progress_bar(what, total) as advance:
        yield advance


def check_artifact(path: Path, archive: bytes, feeds: Path | None = None) -> list[str]:
    """``archive``: of the model in ``path``, for this machine. Sentences to warn with, none where all is well. Raises
    EdgeEmoError naming the first tensor that is wrong."""
    model = load_onnx(path)
    contract = read_contract(model, str(path))
    with tempfile.TemporaryDirectory(prefix="edgeemo-") as folder:
        artifact = Path(folder, "host.edgeemo")
        artifact.write_bytes(archive)
        if contract is not None:
            if problem := _stream_problem(model, contract, artifact):
                raise EdgeEmoError(f"{path}: compiled, {problem}; report it; --no-check compiles it all the same")
            return []
        doubts: list[str] = []
        for feed in _feeds(model, path, feeds):
            settled: set[str] = set()
            while True:
                problem, doubt = _problem(model, artifact, feed, settled)
                if not problem:
                    break
                node = _first_wrong(model, feed, Path(folder), settled)
                if node is None or not _right_by_itself(model, node, artifact, feed, Path(folder)):
                    where = f"; the first wrong one is {tensor_of(node)}" if node else ""
                    raise EdgeEmoError(f"{path}: compiled, {problem}{where}; report it; --no-check compiles it all the same")
                settled.add(node.output[0])
                doubt = f"{problem}: its {node.op_type} makes that of rounding before it; compare on real inputs (--feeds)"
                doubts = doubts or [f"{path}: {doubt}"]
            doubts = doubts or ([f"{path}: {doubt}"] if doubt else [])
        return doubts


def _feeds(model: onnx.ModelProto, path: Path, folder: Path | None) -> list[Feed]:
    if folder is not None:
        return [read_feed(file, model) for file in find_feeds(folder)[:FEEDS]]
    try:
        return [runnable(model, ITEMS, str(path))]
    except EdgeEmoError as error:
        raise EdgeEmoError(f"{error}; --feeds names a folder of real ones, --no-check does without") from error


def _problem(model: onnx.ModelProto, artifact: Path, feed: Feed, settled: Container[str] = ()) -> tuple[str, str]:
    """Names what is wrong with an artifact's outputs, but those ``settled``, "" if nothing is; and a sentence where rounding
    decides INT8's answers."""
    function = Function(artifact)
    int8 = _is_int8(model)
    wanted = {name: a for name, a in _run(model, feed).items() if name not in settled}
    near = _run(rounded_otherwise(model), feed) if int8 else _run(model, nearby(feed))
    together = function.run(feed)
    count = len(next(iter(feed.values())))
    each = [function.run({n: a[i : i + 1] for n, a in feed.items()}) for i in range(min(count, ITEMS))]
    alone = {n: np.concatenate([one[n] for one in each]) for n in together}
    first = {n: a[: len(each)] for n, a in wanted.items()}
    if problem := _differs(together, wanted, near, int8):
        return problem, ""
    if problem := _differs(alone, first, {n: a[: len(each)] for n, a in near.items()}, int8):
        return f"one item at a time, {problem}", ""
    strict = _differs(together, wanted, wanted, int8) if int8 else ""
    doubt = f"{strict}: rounding decides it, and ONNX Runtime does not agree with itself either; compare on real inputs (--feeds)"
    return "", doubt if strict else ""


def _differs(found: Outputs, wanted: Outputs, near: Outputs, int8: bool) -> str:
    """Names the first output that is not as ONNX Runtime's; "" if all are. ``near``: ONNX Runtime's for inputs that differ in
    the last bits; of an INT8 model, for such bits before each of its quantizers."""
    for name, reference in wanted.items():
        got = found[name]
        if got.shape != reference.shape:
            return f"output {name} is {got.shape} where ONNX Runtime gives {reference.shape}"
        off, allowed = difference(got, reference, norms=int8), NOISE if int8 else CLOSE
        by_itself = difference(near[name], reference, norms=int8)
        if off > allowed and not off <= (ROUNDED if int8 else AMPLIFIED) * by_itself:
            return f"output {name} differs from ONNX Runtime's by {off:.2g} of its {'norm' if int8 else 'largest'}"
    return ""


def _is_int8(model: onnx.ModelProto) -> bool:
    return any(n.op_type == "QuantizeLinear" for n in model.graph.node)


def _run(model: onnx.ModelProto, feed: Feed) -> Outputs:
    return dict(zip([o.name for o in model.graph.output], open_session(model).run(None, feed), strict=True))


def _stream_problem(model: onnx.ModelProto, contract: StreamContract, artifact: Path) -> str:
    """Names what is wrong with the probabilities of some calls, "" if nothing is: of all at once against ONNX Runtime's, and of
    one call alone against its own among others, which is far stricter."""
    noise = np.random.default_rng(0)
    loudness = 10.0 ** noise.uniform(-3, -0.5, (HOPS, CALLS, 1))  # pauses and shouting
    audio = (noise.standard_normal((HOPS, CALLS, contract.samples_per_step)) * loudness).astype(np.float32)
    reference = OnnxStream(model, contract)
    reference.reset(CALLS)
    compiled, alone = Model(artifact, CALLS), Model(artifact, 1)
    wanted, found, last = [], [], []
    for hop in audio:
        wanted.append(reference.probabilities(hop))
        compiled.audio[:CALLS] = hop
        found.append(compiled.run(np.arange(CALLS)).copy())
        alone.audio[:1] = hop[-1:]
        last.append(alone.run(np.arange(1)).copy())
    name = contract.probabilities
    whole, together, single = ({name: np.concatenate(part, axis=1)} for part in (wanted, found, last))
    if problem := _differs(together, whole, whole, _is_int8(model)):
        return problem
    its = {name: together[name][-1:]}
    return f"one call alone has other {name} than among others" if _differs(single, its, its, int8=False) else ""


def _first_wrong(model: onnx.ModelProto, feed: Feed, folder: Path, settled: Container[str]) -> onnx.NodeProto | None:
    def wrong(part: onnx.ModelProto) -> bool:
        try:
            return bool(_problem(part, _artifact_of(part, folder), feed, settled)[0])
        except EdgeEmoError:
            return False  # by itself it does not compile: what is behind it will be named

    return first_bad_node(model, wrong)


def _artifact_of(part: onnx.ModelProto, folder: Path) -> Path:
    file, artifact = folder / "part.onnx", folder / "part.edgeemo"
    onnx.save(part, file)
    artifact.write_bytes(compile_here(file, load_target("host")).archive)
    return artifact


def _right_by_itself(model: onnx.ModelProto, node: onnx.NodeProto, artifact: Path, feed: Feed, folder: Path) -> bool:
    """Whether an output of an INT8 model is off by what rounding before its last operator comes to: what goes into that is right,
    and it makes of that what ONNX Runtime does, in the ``artifact``, too."""
    known, name = possible_outputs(model), node.output[0]
    inputs = [i for i in dict.fromkeys(node.input) if i in known]
    if not _is_int8(model) or not inputs or name not in {o.name for o in model.graph.output}:
        return False
    part = part_of(model, [known[i] for i in (*inputs, name)])
    try:
        found = Function(_artifact_of(part, folder)).run(feed)
        wanted, near = _run(part, feed), _run(rounded_otherwise(part), feed)
        last = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(inputs, [name])
        remade = _run(last, {i: found[i] for i in inputs})[name]
    except (EdgeEmoError, ValueError):  # it cannot be had by itself
        return False
    same = difference(Function(artifact).run(feed)[name], found[name]) <= CLOSE and difference(found[name], remade) <= CLOSE
    return same and not _differs(found, {i: wanted[i] for i in inputs}, near, int8=True)
