"""Inputs for a graph that hears no audio: .npz files, one array per input, or made up for a comparison."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper

from edgeemo.onnxlib.graph import dims, inputs_of
from edgeemo.onnxlib.session import open_session

LARGEST = 1 << 30  # elements of an input that is made up
Feed = dict[str, np.ndarray]


def find_feeds(folder: Path) -> list[Path]:
    """Sorted. Raises EdgeEmoError where the folder holds no .npz."""
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not files:
        raise EdgeEmoError(f"{folder}: no .npz in it; numpy.savez(FILE, INPUT=array, ...) writes one, an array per input")
    return files


def read_feed(path: Path, model: onnx.ModelProto) -> Feed:
    """An .npz with all inputs of ``model``: (batch, ...) arrays of the input's kind, or one item's without the batch.

    Raises EdgeEmoError naming the file and the input that is missing, of another shape, or not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise EdgeEmoError(f"{path}: not an .npz of plain arrays ({error})") from error
    feed = {}
    for info in inputs_of(model):
        shape, kind = dims(info), helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if info.name not in found:
            raise EdgeEmoError(f"{path}: has no array {info.name}; it has {', '.join(found) or 'none'}")
        array = found[info.name]
        if array.shape == shape[1:]:
            array = array[None]
        if array.ndim != len(shape) or array.shape[1:] != shape[1:] or not np.can_cast(array.dtype, kind, "same_kind"):
            raise EdgeEmoError(f"{path}: {info.name} is {array.dtype} {array.shape}; the model takes {kind} {shape}")
        if kind.kind == "f" and not np.isfinite(array).all():
            raise EdgeEmoError(f"{path}: {info.name} is not finite")
        feed[info.name] = np.ascontiguousarray(array, dtype=kind)
    if len({len(a) for a in feed.values()}) != 1:
        raise EdgeEmoError(f"{path}: its arrays are of different batches: {', '.join(f'{n} {a.shape}' for n, a in feed.items())}")
    return feed


def runnable(model: onnx.ModelProto, batch: int, source: str) -> Feed:
    """Made-up inputs that ONNX Runtime takes: indices of whole numbers may be of a short table. Raises EdgeEmoError where it
    takes none."""
    error: Exception | None = None
    for whole in (range(10), range(1, 10), range(2), range(1), range(1, 2)):  # some divide, some are places in a table
        feed = made_up(model, batch, whole=whole)
        try:
            open_session(model).run(None, feed)
        except Exception as refused:  # ONNX Runtime raises types of its own
            error = refused
        else:
            return feed
    said = str(error).splitlines()[0][:200]
    raise EdgeEmoError(f"{source}: does not run on made-up inputs ({said})")


def made_up(model: onnx.ModelProto, batch: int, seed: int = 0, whole: range = range(10)) -> Feed:
    """Normal numbers, and small ones (of ``whole``) for inputs of whole numbers."""
    rng = np.random.default_rng(seed)
    feed = {}
    for info in inputs_of(model):
        shape = tuple(d if isinstance(d, int) else batch for d in dims(info))
        kind = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if math.prod(shape) > LARGEST:
            size = " x ".join(map(str, shape[1:]))
            raise EdgeEmoError(f"input {info.name} of {size} is more than memory holds; `edgeemo adapt --shape` gives it sizes")
        values = rng.standard_normal(shape) if kind.kind == "f" else rng.integers(whole.start, whole.stop, shape)
        feed[info.name] = values.astype(kind)
    return feed
