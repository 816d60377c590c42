"""Findings of calibration and quantization for a user to look at: warnings with figures, and the option that mends each."""

from __future__ import annotations

from itertools import islice

import numpy as np
import onnx

from edgeemo.data.streams import side_by_side
from edgeemo.onnxlib.difference import difference
from edgeemo.onnxlib.feeds import read_feed
from edgeemo.onnxlib.session import OnnxStream, open_session
from edgeemo.quantize.calibration.checks import FEW_CLIPS
from edgeemo.quantize.calibration.observer import Observer
from edgeemo.quantize.calibration.runner import Calibration
from edgeemo.quantize.calibration.sources import ClipSource, FeedSource, Source, files_of
from edgeemo.quantize.plan import Plan
from edgeemo.quantize.report import QuantizationReport

FEW_ITEMS = FEW_CLIPS
ENERGY = 0.9  # of a tensor that a threshold should keep
POOR_DB = 10.0  # of a layer: a third of its output is noise
NOISE = 0.3  # of the answers' norm
COMPARED, STEPS = 4, 24  # files (one item of a feed), and steps of a clip, on which answers are compared
NAMED = 3  # layers that a warning lists


def feed_warnings(source: FeedSource, model: onnx.ModelProto) -> list[str]:
    """Warnings about too few items, and of inputs that are zero in all of them."""
    items, zero = 0, set[str]()
    for number, path in enumerate(files_of(source)):
        feed = read_feed(path, model)
        items += len(next(iter(feed.values())))
        here = {n for n, a in feed.items() if not a.any()}
        zero = here if number == 0 else zero & here
    said = []
    if items < FEW_ITEMS:
        said.append(f"few: {items} items in all feeds; {FEW_ITEMS} are the least to trust, --feeds takes a folder with more")
    if zero and items:
        said.append(f"zero: {_some(sorted(zero))} zero in all feeds; thresholds mean nothing where no value is seen")
    return said


def warnings_of(
    planned: Plan, calibration: Calibration, quantized: onnx.ModelProto, report: QuantizationReport, source: Source | None
) -> list[str]:
    """All that a quantized model is warned of. ``source``: inputs to compare answers on, None where there are none."""
    said = calibration_warnings(planned, calibration) + report_warnings(report)
    return said if source is None else said + answer_warnings(planned.model, quantized, source)


def calibration_warnings(planned: Plan, calibration: Calibration) -> list[str]:
    """Warnings about layers whose inputs were always zero, and of thresholds that cut off much of a tensor's energy."""
    zero, cut = [], []
    for layer in planned.layers:
        found = calibration.ranges.get(layer.input)
        if layer.precision != "int8" or not isinstance(found, Observer):
            continue
        how = planned.scalings[layer.input]
        if found.largest == 0:
            zero.append(layer.name)
        elif (kept := found.energy_kept(found.threshold(how.threshold))) < ENERGY:
            cut.append(f"{layer.name} ({kept:.0%} by {how.threshold})")
    said = []
    if zero:
        said.append(
            f"zero: the input of {_some(zero)} always zero; any other value it meets is lost: calibrate on more, or --keep-fp32"
        )
    if cut:
        said.append(
            f"clipped: thresholds keep little of the energy of the input of {_some(cut)}; --threshold mse or min-max keeps more"
        )
    return said


def report_warnings(report: QuantizationReport) -> list[str]:
    poor = [f"{r.name} ({r.sqnr_db:.1f} dB)" for r in report.layers if r.sqnr_db is not None and r.sqnr_db < POOR_DB]
    if not poor:
        return []
    return [
        f"poor: {_some(poor)} of little but noise in INT8; --threshold mse, or --keep-fp16 NAME leaves a layer in half precision"
    ]


def answer_warnings(model: onnx.ModelProto, quantized: onnx.ModelProto, source: Source) -> list[str]:
    """Warnings about an INT8 model whose answers are far from the float one's, on a few of the calibration files."""
    pairs = list(islice(_answers(model, quantized, source), COMPARED))
    if not pairs:
        return []
    far = {n: max(difference(int8[n], floats[n], norms=True) for floats, int8 in pairs) for n in pairs[0][0]}
    bad = [f"{n} ({noise:.0%})" for n, noise in far.items() if noise > NOISE]
    if not bad:
        return []
    return [f"far: INT8's {_some(bad)} of its norm away from float; `edgeemo analyze` finds the layer and a recipe that mends it"]


def _answers(model: onnx.ModelProto, quantized: onnx.ModelProto, source: Source):  # type: ignore[no-untyped-def]
    """(float outputs, INT8 outputs) by name, of a file each."""
    if isinstance(source, FeedSource):
        sessions = [open_session(m, arena=False) for m in (model, quantized)]
        names = [o.name for o, info in zip(sessions[0].get_outputs(), model.graph.output, strict=True)
                 if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]  # fmt: skip
        for path in files_of(source):
            feed = {n: a[:1] for n, a in read_feed(path, model).items()}  # a large model's tensors of one item fill memory
            if len(next(iter(feed.values()))) and names:
                yield tuple(dict(zip(names, session.run(names, feed), strict=True)) for session in sessions)
    elif isinstance(source, ClipSource):
        contract = source.contract
        from edgeemo_runtime.audio import load_audio

        clips = [load_audio(path, contract.sample_rate) for path in files_of(source)[:COMPARED]]
        audio, _ = side_by_side(clips, contract.samples_per_step)
        streams = [OnnxStream(m, contract) for m in (model, quantized)]
        for stream in streams:
            stream.reset(len(audio))
        steps = [[s.probabilities(audio[:, step]) for s in streams] for step in range(min(STEPS, audio.shape[1]))]
        yield tuple({contract.probabilities: np.concatenate(side)} for side in zip(*steps, strict=True))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"
