"""The second level of angry: how strong it is. A linear head on weights that stay as they are.

A stream's evidence is a sum over its steps, and so linear in the head: sum_t decay^(T-t) p_t(angry) (w . h_t + b), with h_t what
the first head's classifier sees. The fit is therefore logistic regression on sum_t decay^(T-t) p_t(angry) (h_t, 1), and what it
learns to answer is what a stream answers at the end of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from edgeemo_runtime.errors import EdgeEmoError
from torch import Tensor

from edgeemo.data.clips import NORMAL_STRONG, Clip, read_manifest
from edgeemo.data.corpus import Corpus
from edgeemo.data.telephone import TelephoneChannel
from edgeemo.evaluate.metrics import confusion_matrix, macro_f1
from edgeemo.model.call import CallModel
from edgeemo.model.checkpoint import load_checkpoint, save_checkpoint
from edgeemo.model.config import INTENSITIES, LABELS

COPIES = 8  # of every clip: cropped, at other speeds, through the telephone line
L2 = 0.01  # of standardised features; of 0.003 to 0.3, by cross-validation over training speakers
LINE = 0.3


def angry_clips(folders: Sequence[Path], split: str) -> list[Clip]:
    """The clips whose anger has a known strength. Raises EdgeEmoError unless there are some of both."""
    listed = [c for folder in folders for c in read_manifest(folder, split)]
    clips = [c for c in listed if c.label == LABELS.index("angry") and c.intensity in NORMAL_STRONG]
    if len({c.intensity for c in clips}) < len(NORMAL_STRONG):
        names = ", ".join(map(str, folders))
        raise EdgeEmoError(f"{names}: split {split} has no angry clips of both intensities (column intensity: normal, strong)")
    return clips


def with_intensity_head(model: CallModel) -> CallModel:
    """The same model with a second head of zeros, in evaluation mode."""
    made = type(model)(replace(model.config, intensity=True))
    state = model.state_dict()
    for name in ("head.classifier.weight", "head.classifier.bias"):
        kept = state[name][: len(LABELS)]
        state[name] = torch.cat([kept, torch.zeros_like(kept[:1])])
    made.load_state_dict(state)
    return made.eval()


def gathered(
    model: CallModel, corpus: Corpus, channel: TelephoneChannel | None, rng: np.random.Generator | None
) -> tuple[Tensor, np.ndarray]:
    """Inputs of the head at the end of each clip heard, the last column by its bias, float64 (n, inputs + 1); and the clips'
    places in ``corpus`` (n,). With ``rng`` clips are drawn: some come twice, others not at all."""
    c = model.config
    rows, places = list[Tensor](), list[np.ndarray]()
    seen: list[Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        for batch, index in corpus.batches(32, rng):
            steps = batch.pcm.shape[1] // c.step_samples
            pcm = batch.pcm if channel is None else channel(batch.pcm)
            answers, _ = model(pcm, model.initial_state(len(index)), steps)
            left = batch.steps[:, None] - 1 - torch.arange(steps)
            share = torch.where(left >= 0, c.intensity_decay ** left.double(), 0.0) * answers[:, :, LABELS.index("angry")]
            h = seen.pop().reshape(len(index), steps, -1).double()
            rows.append((share[:, :, None] * torch.cat([h, torch.ones(*h.shape[:2], 1)], dim=2)).sum(dim=1))
            places.append(index)
    hook.remove()
    return torch.cat(rows), np.concatenate(places)


def fit_intensity(folders: Sequence[Path], init: Path, out: Path, threads: int, seed: int = 1) -> dict[str, object]:
    """Adds the head to the checkpoint ``init`` from the splits ``train`` of ``folders`` and writes ``out``. Returns its scores on
    ``dev``: macro-F1 of annoyed and furious over angry clips. Raises EdgeEmoError where intensities are not known."""
    torch.set_num_threads(threads)
    base = load_checkpoint(init)
    if not isinstance(base, CallModel):
        raise EdgeEmoError(f"{init}: is a checkpoint of {base.title}; the second level is CosyVoice's")
    model = with_intensity_head(base)
    c = model.config
    sets = {s: Corpus(angry_clips(folders, s), c.sample_rate, c.step_samples) for s in ("train", "dev")}
    strong = {s: np.array([x.intensity == NORMAL_STRONG[1] for x in corpus.clips]) for s, corpus in sets.items()}
    rng, channel = np.random.default_rng(seed), TelephoneChannel(seed, LINE)
    heard = [gathered(model, sets["train"], channel, rng) for _ in range(COPIES)]
    rows = torch.cat([inputs for inputs, _ in heard])
    target = torch.from_numpy(strong["train"][np.concatenate([places for _, places in heard])]).double()
    spread = rows.std(dim=0).clamp(min=1e-6)
    x, w = rows / spread, torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(x @ w, target) + L2 * w.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        head = w / spread
        model.classifier.weight[-1] = head[:-1].float()
        model.classifier.bias[-1] = head[-1].float()
        inputs, places = gathered(model, sets["dev"], None, None)
        answer = (inputs @ head > 0).numpy()
    save_checkpoint(model, out)
    f1 = macro_f1(confusion_matrix(strong["dev"][places].astype(int), answer.astype(int), len(INTENSITIES)))
    clips = {s: len(corpus) for s, corpus in sets.items()}
    return {
        "dev_intensity_macro_f1": round(f1, 4),
        "clips": clips,
        "l2": L2,
        "copies": COPIES,
        "seed": seed,
        "checkpoint": str(out),
    }
