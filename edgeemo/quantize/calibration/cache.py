"""A calibration as a file: ranges found once, used by any recipe, thresholds open to an editor.

    {"model_sha256": ..., "data_sha256": ..., "clips": 200, "steps": 3671,
     "tensors": {"layer_norm": {"layers": ["blocks.0.local_attention.qkv"], "largest": 5.1, "histogram_sha256": ...,
                                "thresholds": {"kl": 4.2, "mse": 4.6, ...}}}}

A threshold that is edited is used as it stands. A file of another model, or of other clips than those named next to it, is
refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx
from edgeemo_runtime.documents import read_json
from edgeemo_runtime.errors import EdgeEmoError, first_line

from edgeemo.parallel import in_order
from edgeemo.quantize.calibration.observer import Observer, Range
from edgeemo.quantize.calibration.runner import Calibration
from edgeemo.quantize.calibration.sources import Source, files_of, hash_source
from edgeemo.quantize.thresholds import THRESHOLDS


class Reader(Protocol):
    """A layer and the tensor that it reads."""

    @property
    def name(self) -> str: ...
    @property
    def input(self) -> str: ...


class Calibrated(Protocol):
    """A plan (quantize/plan.py, which imports this package), as far as a calibration depends on it."""

    @property
    def model(self) -> onnx.ModelProto: ...
    @property
    def layers(self) -> Sequence[Reader]: ...
    @property
    def observed(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class StoredRange(Range):
    largest: float
    thresholds: Mapping[str, float]

    def threshold(self, name: str) -> float:
        return self.thresholds[name]


def hash_model(model: onnx.ModelProto) -> str:
    """sha256 of the graph, weights included; what metadata says of it does not count."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def stored_ranges(calibration: Calibration, jobs: int = 1) -> dict[str, StoredRange]:
    """Every tensor's threshold by every method, found on ``jobs`` processes."""
    names, ranges = list(calibration.ranges), list(calibration.ranges.values())
    found = list(in_order(_all_thresholds, ((r,) for r in ranges), jobs))
    for observed, thresholds in zip(ranges, found, strict=True):
        if isinstance(observed, Observer):
            observed.remember(thresholds)
    return {t: StoredRange(r.largest, thresholds) for t, r, thresholds in zip(names, ranges, found, strict=True)}


def _all_thresholds(observed: Range) -> dict[str, float]:
    return {name: observed.threshold(name) for name in THRESHOLDS}


def calibration_document(planned: Calibrated, calibration: Calibration, jobs: int = 1) -> dict[str, Any]:
    """The document that the file holds: every tensor's threshold by every method, so that it outlives a change of recipe. The
    calibration has histograms, that is, it was not read from a file."""
    read_by: dict[str, list[str]] = {t: [] for t in calibration.ranges}
    for layer in planned.layers:
        read_by.get(layer.input, []).append(layer.name)
    tensors = {}
    for tensor, stored in stored_ranges(calibration, jobs).items():
        observed = calibration.ranges[tensor]
        assert isinstance(observed, Observer)
        histogram = hashlib.sha256(observed.histogram.astype("<i8").tobytes()).hexdigest()
        about = {"layers": read_by[tensor], "largest": stored.largest, "histogram_sha256": histogram}
        tensors[tensor] = about | {"thresholds": stored.thresholds}
    c = calibration
    sums = {"model_sha256": hash_model(planned.model), "data_sha256": c.data_sha256}
    return {**sums, "clips": c.clips, "steps": c.steps, "tensors": tensors}


def read_calibration(path: Path, planned: Calibrated, source: Source | None) -> Calibration:
    """``source``: what it should have been made on, None where nobody says.

    Raises EdgeEmoError naming the file and why it cannot be used: of another model or other data, a tensor or number missing.
    """
    if not path.exists():
        raise EdgeEmoError(f"{path}: no such file; `edgeemo quantize --save-calibration {path}` writes it")
    document = read_json(path)
    try:
        ranges = {t: _stored(t, entry) for t, entry in document["tensors"].items()}
        model_sha, data_sha = (document[k] for k in ("model_sha256", "data_sha256"))
        of_clips, steps = (int(document[k]) for k in ("clips", "steps"))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise EdgeEmoError(f"{path}: not a calibration ({first_line(error)})") from error
    if model_sha != hash_model(planned.model):
        raise EdgeEmoError(f"{path}: stale: made of another model (its weights or graph differ); calibrate anew without it")
    if source is not None and data_sha != hash_source(source):
        raise EdgeEmoError(
            f"{path}: stale: made of {of_clips} other files than the {len(files_of(source))} given; calibrate anew without it"
        )
    if missing := sorted(set(planned.observed) - set(ranges)):
        raise EdgeEmoError(f"{path}: has no range of {', '.join(missing)}; calibrate anew without it")
    return Calibration(ranges, {}, of_clips, steps, str(data_sha))


def _stored(tensor: str, entry: dict[str, Any]) -> StoredRange:
    if missing := [name for name in THRESHOLDS if name not in entry["thresholds"]]:
        raise ValueError(f"tensor {tensor} lacks the threshold of {', '.join(missing)}: calibrate anew without it")
    thresholds = {name: float(entry["thresholds"][name]) for name in THRESHOLDS}
    if not all(math.isfinite(v) and v >= 0 for v in (*thresholds.values(), float(entry["largest"]))):
        raise ValueError(f"tensor {tensor}: thresholds are finite and not negative")
    return StoredRange(float(entry["largest"]), thresholds)
