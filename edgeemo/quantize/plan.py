"""ONNX in, INT8 QDQ ONNX and a report out: plan what a recipe does, observe its tensors, rewrite the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import Clip
from edgeemo.onnxlib.contract import StreamContract, read_contract
from edgeemo.onnxlib.metadata import QUANTIZATION, write_metadata
from edgeemo.quantize.calibration.observer import ActivationScaling, Scalings
from edgeemo.quantize.calibration.runner import SAMPLE_STEPS, Calibration, Progress, calibrate
from edgeemo.quantize.calibration.sources import ClipSource, Source
from edgeemo.quantize.layers import Layer, Tokens, find_layers, find_tokens
from edgeemo.quantize.qdq import bias_of, rewrite
from edgeemo.quantize.recipe import DEFAULT_RULES, Recipe
from edgeemo.quantize.report import QuantizationReport, report_layers, report_tokens
from edgeemo.quantize.rounding import observe_moments, rounded_layers, windows_of


@dataclass(frozen=True)
class Plan:
    """A model under a recipe. ``observed`` are the tensors to calibrate, each with the name of the one it shares a range with;
    they hold what any recipe may ask for, so that a calibration serves more than one. ``scalings``: how a tensor is clipped."""

    model: onnx.ModelProto
    contract: StreamContract | None  # None where the model hears no audio
    recipe: Recipe
    layers: list[Layer]
    tokens: list[Tokens]
    observed: dict[str, str]
    scalings: Scalings


def plan(model: onnx.ModelProto, source: str, recipe: Recipe) -> Plan:
    """Raises EdgeEmoError where the model has no layers, or a rule of the recipe matches none."""
    contract = read_contract(model, source)
    layers = find_layers(model, recipe)
    rings = {s.input for s in contract.states if s.update == "ring"} if contract else set()
    tokens, all_tokens = (find_tokens(model, rings, r) for r in (recipe, Recipe()))
    recipe.check_all_match([x.name for x in layers] + [t.name for t in all_tokens])
    # Inputs of one weight are one signal at several times, as in an unrolled LSTM: by itself the first of them hears little but
    # the silence before calls, and its threshold would clip all of speech.
    observed: dict[str, str] = {}
    by_weight: dict[str, str] = {}
    for layer in layers:
        if layer.precision != "fp32" or not any(rule.matches(layer.name) for rule in DEFAULT_RULES):
            observed.setdefault(layer.input, by_weight.setdefault(layer.weight_name, layer.input))
    observed |= {t.input: t.input for t in all_tokens}
    scalings: Scalings = {}
    for layer in layers:  # of several readers the first says how
        scalings.setdefault(layer.input, layer.activations)
    for part in all_tokens:  # no weights: attention's products have all of int8
        scalings.setdefault(part.input, ActivationScaling(recipe.activation_scaling(part.name).threshold))
    return Plan(model, contract, recipe, layers, tokens, observed, scalings)


def observe(
    planned: Plan,
    data: list[Clip] | Source,
    progress: Progress = lambda done: None,
    jobs: int = 1,
    cluster: str | None = None,
    sample_steps: int = SAMPLE_STEPS,
) -> Calibration:
    """``data``: clips to stream, or a source of inputs. ``progress`` is called with files done, three times over them.

    Raises EdgeEmoError where a file cannot be read, or clips are given to a model that has no stream contract.
    """
    source = ClipSource.of(stream_contract(planned), data) if isinstance(data, list) else data
    calibration = calibrate(planned.model, source, planned.observed, progress, jobs, cluster, sample_steps)
    return with_moments(planned, calibration, source, progress)


def with_moments(planned: Plan, calibration: Calibration, source: Source, progress: Progress = lambda done: None) -> Calibration:
    """The calibration with what rounding by the recipe has to know, from a third pass over ``source`` if anything asks for it."""
    layers = [layer for layer in planned.layers if layer.input in planned.observed]
    return replace(calibration, moments=observe_moments(planned.model, source, layers, calibration.steps, progress))


def stream_contract(planned: Plan) -> StreamContract:
    """Raises EdgeEmoError where there is none."""
    if planned.contract is None:
        raise EdgeEmoError("the model has no stream contract, so clips cannot be fed to it: `edgeemo export` writes one, "
                           "--feeds DIR takes .npz files of any inputs")  # fmt: skip
    return planned.contract


def apply(planned: Plan, calibration: Calibration) -> onnx.ModelProto:
    """The quantized model. Same plan and calibration give the same bytes."""
    return rewrite_rounded(planned, calibration, rounded(planned, calibration))


def rounded(planned: Plan, calibration: Calibration) -> list[Layer]:
    """The plan's layers with weights rounded as the recipe says; to the nearest where the calibration does not know what they
    hear."""
    if calibration.moments is None:
        return planned.layers
    return rounded_layers(planned.layers, calibration.moments, {x.name for x in planned.layers if bias_of(planned.model, x.node)})


def unheard(planned: Plan, calibration: Calibration) -> list[str]:
    """A warning where the recipe rounds by what layers hear and the calibration, from a file, does not know that."""
    asked = any(layer.precision == "int8" and windows_of(layer) is not None for layer in planned.layers)
    if calibration.moments is not None or not asked:
        return []
    return [
        "rounding: kept ranges do not tell what layers hear, so weights go to the nearest values; give the clips as well "
        '(--calib DIR) for weight_rounding = "gptq"'
    ]


def rewrite_rounded(planned: Plan, calibration: Calibration, layers: list[Layer]) -> onnx.ModelProto:
    used = [layer.input for layer in layers if layer.precision == "int8"] + [t.input for t in planned.tokens]
    scalings = {tensor: planned.scalings[tensor] for tensor in used}
    activations = {tensor: (calibration.ranges[tensor].scale(how), how.qmax) for tensor, how in scalings.items()}
    quantized = rewrite(planned.model, layers, planned.tokens, activations)
    onnx.helper.set_model_props(quantized, {p.key: p.value for p in planned.model.metadata_props})
    return quantized


def quantize_plan(planned: Plan, calibration: Calibration) -> tuple[onnx.ModelProto, QuantizationReport]:
    layers = rounded(planned, calibration)
    quantized = rewrite_rounded(planned, calibration, layers)
    reports = report_layers(layers, calibration, planned.scalings) + report_tokens(planned.tokens, calibration, planned.scalings)
    recipe, c = planned.recipe, calibration
    report = QuantizationReport(recipe.name, recipe.threshold, c.clips, c.steps, c.data_sha256, reports)
    write_metadata(quantized, QUANTIZATION, report.to_json())
    return quantized, report


def quantize_model(
    model: onnx.ModelProto,
    source: str,
    clips: list[Clip],
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen); the default one
    progress: Progress = lambda done: None,
    jobs: int = 1,
) -> tuple[onnx.ModelProto, QuantizationReport]:
    """All of the above. Same model, clips and recipe give the same bytes, whatever the number of jobs."""
    planned = plan(model, source, recipe)
    return quantize_plan(planned, observe(planned, clips, progress, jobs))
