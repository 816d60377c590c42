"""Start of CosyVoice-Tiny's weights: the front of Whisper tiny.en's encoder, its heads sorted into a local and a global path."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.encoder import CachedHeads, EncoderLayer
from edgeemo.model.whisper import WhisperEncoder

# By layer: the three heads that look least far, by the mean distance of what they attend to, as a share of what heads without a
# preference would have (0.03 to 0.12 and 0.08 to 0.22; the others 0.58 to 0.85).
LOCAL_HEADS = ((0, 1, 4), (1, 2, 3))
SILENT_BAND = -1.0  # Whisper's log-mel above 4 kHz, where a call has nothing, its loudest band at 1.0


def begin_with_whisper(model: CosyVoiceTiny, encoder: WhisperEncoder, mel: Tensor) -> None:
    """Copies weights. The bands above 4 kHz become part of the first convolution's bias; of the hidden units of a layer those
    stay that do most for ``mel``, log-mel (B, 80, frames) of speech, and the others' means go into a bias."""
    hidden = _hidden(encoder, mel)
    stem, bands = model.stem, model.config.bands
    weight, bias = encoder.conv1.weight, encoder.conv1.bias
    assert bias is not None
    with torch.no_grad():
        stem.conv1.weight.copy_(weight[:, :bands])
        assert stem.conv1.bias is not None
        stem.conv1.bias.copy_(bias + SILENT_BAND * weight[:, bands:].sum(dim=(1, 2)))
        stem.conv2.load_state_dict(encoder.conv2.state_dict())
        for i, (layer, theirs, local) in enumerate(zip(model.layers, encoder.layers, LOCAL_HEADS, strict=False)):
            assert isinstance(layer, EncoderLayer) and isinstance(theirs, nn.ModuleDict)
            layer.norm.load_state_dict(theirs["attention_norm"].state_dict())
            layer.ffn.norm.load_state_dict(theirs["ffn_norm"].state_dict())
            _copy_ffn(layer, theirs, hidden[i])
            far = [h for h in range(encoder.heads) if h not in local]
            _copy_heads(layer.local_path, theirs, list(local), encoder.heads)
            _copy_heads(layer.global_path, theirs, far, encoder.heads)
            layer.local_path.out.bias.copy_(_linear(theirs, "out").bias)
            layer.global_path.out.bias.zero_()  # the two are added


def _copy_heads(path: CachedHeads, layer: nn.ModuleDict, heads: list[int], of: int) -> None:
    out, whole = _linear(layer, "out"), _linear(layer, "qkv")
    d = out.in_features
    rows = torch.arange(d).reshape(of, d // of)[heads].reshape(-1)
    qkv = torch.cat([rows + part * d for part in range(3)])
    path.qkv.weight.copy_(whole.weight[qkv])
    path.qkv.bias.copy_(whole.bias[qkv])
    path.out.weight.copy_(out.weight[:, rows])


def _linear(layer: nn.ModuleDict, name: str) -> nn.Linear:
    found = layer[name]
    assert isinstance(found, nn.Linear)
    return found


def _hidden(encoder: WhisperEncoder, mel: Tensor) -> list[Tensor]:
    """By layer, what its hidden units give of some speech: (n, units)."""
    seen: list[Tensor] = []
    hooks = []
    for layer in encoder.layers:
        assert isinstance(layer, nn.ModuleDict)
        hooks.append(_linear(layer, "up").register_forward_hook(lambda _, __, out: seen.append(F.gelu(out.flatten(0, 1)))))
    with torch.no_grad():
        encoder.encode(mel)
    for hook in hooks:
        hook.remove()
    return seen


def _copy_ffn(layer: EncoderLayer, theirs: nn.ModuleDict, hidden: Tensor) -> None:
    up, down = _linear(theirs, "up"), _linear(theirs, "down")
    does = hidden.var(dim=0) * down.weight.square().sum(dim=0)
    kept, left = does.argsort(descending=True).split([layer.ffn.up.out_features, len(does) - layer.ffn.up.out_features])
    kept = kept.sort().values
    layer.ffn.up.weight.copy_(up.weight[kept])
    layer.ffn.up.bias.copy_(up.bias[kept])
    layer.ffn.down.weight.copy_(down.weight[:, kept])
    layer.ffn.down.bias.copy_(down.bias + down.weight[:, left] @ hidden[:, left].mean(dim=0))
