"""Checkpoints: float16 safetensors with the model's configuration in the metadata, float32 in memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from edgeemo_runtime.errors import EdgeEmoError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgeemo.model.config import NanoConfig, TinyConfig
from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.mfcc_bilstm import MfccBiLstm, MfccConfig
from edgeemo.model.streaming import StreamingModel
from edgeemo.model.whisper_cls import WhisperConfig, WhisperTinyCls

WEIGHTS = Path(__file__).parent / "weights"
DEFAULT_CHECKPOINT = WEIGHTS / "cosyvoice_tiny.safetensors"

# By their names in checkpoints and on the command line.
MODELS: dict[str, tuple[type[StreamingModel], type[Any]]] = {
    CosyVoiceTiny.kind: (CosyVoiceTiny, TinyConfig),
    CosyVoiceNano.kind: (CosyVoiceNano, NanoConfig),
    WhisperTinyCls.kind: (WhisperTinyCls, WhisperConfig),
    MfccBiLstm.kind: (MfccBiLstm, MfccConfig),
}


def committed_checkpoint(kind: str) -> Path:
    """Path of the package's weights of a model."""
    return WEIGHTS / f"{kind.replace('-', '_')}.safetensors"


def save_checkpoint(model: StreamingModel, path: str | Path) -> None:
    """Writes float16 weights (half the size; the scores in the model card are of the file as written), but for those that are an
    installed package's."""
    path, elsewhere = Path(path), model.installed()
    tensors = {
        k: (v.detach().to(torch.float16) if v.is_floating_point() else v).contiguous()
        for k, v in model.state_dict().items()
        if k not in elsewhere
    }
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial, metadata={"config": json.dumps({"model": model.kind, **model.config.to_dict()})})
    os.replace(partial, path)


def load_checkpoint(path: str | Path = DEFAULT_CHECKPOINT) -> StreamingModel:
    """The model in evaluation mode. Raises EdgeEmoError naming the file and what does not fit, or the package that is missing."""
    path = Path(path)
    if not path.is_file():
        raise EdgeEmoError(f"{path}: no such checkpoint; train one with `edgeemo train`, or leave --checkpoint out")
    try:
        with safe_open(path, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
            stored = {k: tensors.get_tensor(k) for k in tensors.keys()}  # noqa: SIM118  not a dict
        state = {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in stored.items()}
        values = json.loads(metadata["config"])  # one key: safetensors writes several in any order
        kind = values.pop("model", CosyVoiceNano.kind)  # the first checkpoints did not say which model they are of
        if kind == CosyVoiceTiny.kind and "blocks" in values:
            kind = CosyVoiceNano.kind  # as it was called when there was one size
        made, config = MODELS[kind]
        model = made(config.from_dict(values))
        model.load_state_dict(model.installed() | state)
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise EdgeEmoError(f"{path}: not a checkpoint of this version ({str(error).splitlines()[0]})") from error
    return model.eval()
