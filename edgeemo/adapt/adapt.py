"""A foreign ONNX file as one that quantize and compile take, and the proof that it is the same function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.inliner
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.adapt.constants import fold_constants
from edgeemo.adapt.crash import naming_the_crash
from edgeemo.adapt.fold import fix, fold, fold_one, refuse_foreign, upgrade
from edgeemo.adapt.functions import expand_functions
from edgeemo.adapt.qoperators import QOPERATORS, without_qoperators
from edgeemo.adapt.recurrent import unroll
from edgeemo.adapt.reference import transforms_in_double
from edgeemo.adapt.rows import keep_rows
from edgeemo.adapt.simplify import simplify
from edgeemo.adapt.vectorize import items_are_apart, vectorize
from edgeemo.isolated import isolated
from edgeemo.onnxlib.difference import AMPLIFIED, difference, nearby
from edgeemo.onnxlib.feeds import Feed, runnable
from edgeemo.onnxlib.graph import BATCH, Shape, dims, inputs_of, set_dims, sized
from edgeemo.onnxlib.session import open_session
from edgeemo.onnxlib.tidy import tidy

IR_VERSION = 10  # the newest that every ONNX Runtime from 1.22 on reads; later ones only add types that nothing here uses
STREAMS = 3
CLOSE = 1e-4  # of the largest magnitude of an output
NOISE = 0.5  # of an output's norm: more than rounding and saturation make, less than a wrong scale
Result = tuple[onnx.ModelProto, Feed, float]  # an adapted model, inputs made up for it, how far it is from the original on these
Way = Callable[[onnx.ModelProto, dict[str, Shape], str], onnx.ModelProto]


@dataclass(frozen=True)
class Adapted:
    """``difference``: the largest of any output from the model as it was, over that output's largest magnitude.

    Where quantized operators were rewritten the model is compared with its rewritten self, and ``noise`` is how far that is
    from the model as it was: the norm of the difference over the norm of the output, of the worst one. Integers round where
    floats do not, and ONNX Runtime's saturate on some processors.
    """

    model: onnx.ModelProto
    difference: float
    noise: float | None = None


def adapt(model: onnx.ModelProto, source: str, shapes: dict[str, Shape], values: dict[str, float]) -> Adapted:
    """Shapes fixed but for the batch, which is first everywhere; constants folded, recurrences and loops unrolled, opset 20 or
    later, operators that the compiler does not have in terms of others, ONNX Runtime's quantized ones as QDQ or in float.
    What comes out is run next to ``model``, for several streams at once and for each alone, on made-up inputs. In a child
    process.

    Raises EdgeEmoError naming the input or node that is in the way.
    """

    def work(part: bytes, what: str) -> tuple[bytes, float, float | None]:
        return isolated(what, _adapt, part, source, shapes, values)

    data, worst, noise = naming_the_crash(model, f"{source}: adapting", work)
    return Adapted(onnx.load_from_string(data), worst, noise)


def _adapt(data: bytes, source: str, shapes: dict[str, Shape], values: dict[str, float]) -> tuple[bytes, float, float | None]:
    given = onnx.load_from_string(data)
    if given.functions:
        given = onnx.inliner.inline_local_functions(given)
    tidy(given, source)
    given.ir_version = IR_VERSION  # 3 would want initializers among the inputs
    del given.graph.value_info[:]  # what the exporter thought of a batch of one
    declared = {i.name: dims(i) for i in inputs_of(given)}
    fixed = fix(given, source, shapes, values)
    refuse_foreign(given, source, QOPERATORS)
    upgraded = upgrade(given, source)
    plain = without_qoperators(expand_functions(upgraded, source), source)
    reference = transforms_in_double(given if plain is upgraded else plain)
    for_one = any(BATCH not in shape or declared[name][shape.index(BATCH) :][:1] == (1,) for name, shape in fixed.items())
    adapted, feed, worst = _for_any_batch(plain, reference, fixed, for_one, source)
    noise = None if plain is upgraded else _noise(given, plain, feed, fixed, source)
    return adapted.SerializeToString(), worst, noise


def _for_any_batch(
    model: onnx.ModelProto, reference: onnx.ModelProto, shapes: dict[str, Shape], for_one: bool, source: str
) -> Result:
    """``model`` with the batch first; ``reference`` is the original.

    With the batch that the file has, where each tensor keeps items apart then; else as what it computes for one item, with a
    batch added to every node. The latter also where the file is for one item: it says so (``for_one``), or runs with no other
    number. One that mixes the items it is given is neither.
    """
    refused = found = None
    if all(BATCH in shape for shape in shapes.values()):
        try:
            found = _compared(_with_its_batch, model, reference, shapes, source)
            if items_are_apart(found[0]):
                return found
        except EdgeEmoError as error:
            if not for_one and _runs_with(reference, shapes, 2):
                raise
            refused = error
    try:
        return _compared(_of_one_item, model, reference, shapes, source)
    except EdgeEmoError as error:
        if found is not None:
            return found
        raise (refused or error) from None


def _with_its_batch(model: onnx.ModelProto, shapes: dict[str, Shape], source: str) -> onnx.ModelProto:
    folded = fold(model, source, shapes)
    return _finished(fold_constants(simplify(keep_rows(unroll(folded, source)), source)))


def _of_one_item(model: onnx.ModelProto, shapes: dict[str, Shape], source: str) -> onnx.ModelProto:
    one = fold_constants(simplify(unroll(fold_one(model, source, shapes), source), source))
    return _finished(fold_constants(simplify(vectorize(one, shapes, source), source)))


def _compared(way: Way, model: onnx.ModelProto, reference: onnx.ModelProto, shapes: dict[str, Shape], source: str) -> Result:
    try:
        adapted = way(model, shapes, source)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        said = str(error).strip().splitlines()[0][:200]
        raise EdgeEmoError(
            f"{source}: is no valid graph with any other number of items ({said}); export it with a dynamic first dimension"
        ) from error
    feed = runnable(adapted, STREAMS, source)
    return adapted, feed, _difference(reference, adapted, feed, shapes, source)


def _finished(adapted: onnx.ModelProto) -> onnx.ModelProto:
    _name_nodes(adapted)
    onnx.checker.check_model(adapted)
    return onnx.shape_inference.infer_shapes(adapted, data_prop=True)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Every node has a name of its own: rules of recipes and messages name nodes."""
    seen: set[str] = set()
    for node in model.graph.node:
        name = node.name or node.output[0]
        while name in seen:
            name = f"{name}.{node.op_type}"
        seen.add(name)
        node.name = name


def _difference(given: onnx.ModelProto, adapted: onnx.ModelProto, feed: Feed, shapes: dict[str, Shape], source: str) -> float:
    together = run(adapted, feed)
    for info in adapted.graph.output:  # what inference said of it may be wrong
        set_dims(info, (BATCH, *together[info.name].shape[1:]))
    off: dict[str, float] = {}
    for stream, alone in enumerate(_one_by_one(given, feed, shapes, source)):
        for name, wanted in alone.items():
            # The batch is first now, wherever it was.
            rows = together[name]
            got = rows[stream] if len(rows) == STREAMS else rows
            if got.size != wanted.size or len(rows) != STREAMS:
                raise EdgeEmoError(
                    f"{source}: output {name} is {wanted.shape} for one stream and {got.shape} of {STREAMS}; leave it out of "
                    "the graph, or export the file with a dynamic first dimension"
                )
            off[name] = max(off.get(name, 0.0), difference(got, wanted))
    worst = max(off.values(), default=0.0)
    if worst > CLOSE:  # where the last bits of the inputs decide, it is not the rewriting
        pairs = zip(_one_by_one(given, feed, shapes, source), _one_by_one(given, nearby(feed), shapes, source), strict=True)
        by_itself = max(difference(near[name], alone[name]) for alone, near in pairs for name in alone)
        if worst <= AMPLIFIED * by_itself:
            return worst
    if not worst <= CLOSE:
        where = max(off, key=lambda name: off[name])
        some = next((i.name for i in inputs_of(adapted) if len(dims(i)) > 1), "INPUT")
        raise EdgeEmoError(
            f"{source}: adapted, output {where} differs by {worst:.2g} of its largest: its streams are not independent, or the "
            f"batch of an input ({', '.join(i.name for i in inputs_of(adapted))}) is not where it was taken to be; "
            f"--shape {some}=1,batch,SIZE says where; --shape {some}=1,SIZE takes it for a file of one item"
        )
    return worst


def _noise(given: onnx.ModelProto, plain: onnx.ModelProto, feed: Feed, shapes: dict[str, Shape], source: str) -> float:
    both = [_one_by_one(model, feed, shapes, source) for model in (given, plain)]
    worst, where = 0.0, ""
    for info in given.graph.output:
        integers, floats = (np.concatenate([alone[info.name].ravel() for alone in outputs]) for outputs in both)
        worst, where = max((worst, where), (difference(integers, floats, norms=True), info.name))
    if not worst <= NOISE:
        raise EdgeEmoError(
            f"{source}: without quantized operators output {where} differs by {worst:.2g} of its norm: that is not rounding; "
            "adapt the float model that it was made of"
        )
    return worst


def _one_by_one(model: onnx.ModelProto, feed: Feed, shapes: dict[str, Shape], source: str) -> list[dict[str, np.ndarray]]:
    """The outputs of a model with its batch wherever it was, stream by stream."""
    names = [o.name for o in model.graph.output]
    try:
        session = open_session(model)
        return [
            dict(zip(names, session.run(None, {
                i.name: _of_item(feed[i.name], stream, shapes[i.name]) for i in inputs_of(model)
            }), strict=True))
            for stream in range(STREAMS)
        ]  # fmt: skip
    except Exception as error:  # ONNX Runtime raises types of its own
        raise EdgeEmoError(
            f"{source}: ONNX Runtime does not run it with one stream ({str(error).splitlines()[0][:200]}); "
            f"--shape {inputs_of(model)[0].name}=batch,SIZE... gives inputs other sizes"
        ) from error


def _runs_with(model: onnx.ModelProto, shapes: dict[str, Shape], items: int) -> bool:
    """Whether ONNX Runtime runs the file as it is with ``items`` at once."""
    try:
        runnable(sized(model, shapes, items), items, "")
    except EdgeEmoError:
        return False
    return True


def _of_item(values: np.ndarray, item: int, shape: Shape) -> np.ndarray:
    return np.moveaxis(values[item : item + 1], 0, shape.index(BATCH)) if BATCH in shape else values[item]


def run(model: onnx.ModelProto, feed: Feed) -> dict[str, np.ndarray]:
    return dict(zip([o.name for o in model.graph.output], open_session(model).run(None, feed), strict=True))
