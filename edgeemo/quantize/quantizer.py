"""ONNX in, INT8 QDQ ONNX and a report out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import Clip
from edgeemo.export.contract import read_contract
from edgeemo.quantize.calibrate import calibrate
from edgeemo.quantize.layers import DEFAULT_KEEP_FP32, find_layers, find_tokens
from edgeemo.quantize.qdq import rewrite
from edgeemo.quantize.report import KEY, QuantizationReport, report_layers, report_tokens


def quantize_model(
    model: onnx.ModelProto,
    source: str,
    clips: list[Clip],
    keep_fp16: tuple[str, ...] = (),
    keep_fp32: tuple[str, ...] = DEFAULT_KEEP_FP32,
    progress: Callable[[int], None] = lambda done: None,
    observer: str = "kl",
) -> tuple[onnx.ModelProto, QuantizationReport]:
    """Same model, clips and options give the same bytes. ``progress`` is called with clips done, twice over the clips.
    ``observer``: how a threshold is found, of thresholds.py.

    Raises EdgeEmoError where the model has no stream contract or layers, or a clip cannot be read.
    """
    contract = read_contract(model, source)
    if contract is None:
        raise EdgeEmoError(f"{source}: has no stream contract, so clips cannot be fed to it; `edgeemo export` writes one")
    layers = find_layers(model, keep_fp16, keep_fp32)
    tokens = find_tokens(model, {s.input for s in contract.states if s.update == "ring"}, keep_fp16 + keep_fp32)
    # Inputs of one weight are one signal at several times, as in an unrolled LSTM: by itself the first of them hears little but
    # the silence before calls, and its threshold would clip all of speech.
    observed: dict[str, str] = {}
    by_weight: dict[str, str] = {}
    for layer in layers:
        if layer.precision != "fp32":
            observed.setdefault(layer.input, by_weight.setdefault(layer.weight_name, layer.input))
    observed |= {t.input: t.input for t in tokens}
    calibration = calibrate(model, contract, observed, clips, progress, observer)
    scales = {name: o.scale for name, o in calibration.observers.items()}
    quantized = rewrite(model, layers, tokens, scales)
    reports = report_layers(layers, calibration) + report_tokens(tokens, calibration)
    report = QuantizationReport(observer, calibration.clips, calibration.steps, hash_clips(clips), reports)
    onnx.helper.set_model_props(quantized, {**{p.key: p.value for p in model.metadata_props}, KEY: report.to_json()})
    return quantized, report


def hash_clips(clips: list[Clip]) -> str:
    """sha256 over the clips' bytes in order: which audio the scales came from."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(hashlib.sha256(Path(clip.path).read_bytes()).digest())
    return digest.hexdigest()
