"""The second level of angry: it changes no answer, streams as it trains, and learns a difference that is there."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from edgeemo_runtime.audio import load_audio
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.cli.main import main
from edgeemo.data.clips import find_clips, read_manifest
from edgeemo.data.corpus import Corpus, change_speed
from edgeemo.evaluate.evaluate import TorchModel, evaluate_intensity
from edgeemo.model.call import CallModel
from edgeemo.model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint, save_checkpoint
from edgeemo.model.config import LABELS
from edgeemo.model.cosyvoice_nano import CosyVoiceNano
from edgeemo.model.cosyvoice_tiny import CosyVoiceTiny
from edgeemo.model.mfcc_bilstm import MfccBiLstm
from edgeemo.train.intensity import angry_clips, fit_intensity, gathered, with_intensity_head
from tests.conftest import CALIBRATION, speech

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("made", [CosyVoiceTiny, CosyVoiceNano])
def test_the_head_changes_no_answer_and_streams_as_it_trains(made: type[CallModel]) -> None:
    torch.manual_seed(0)
    plain = made().eval()
    model = with_intensity_head(plain)
    with torch.no_grad():
        model.classifier.weight[-1].normal_()
    pcm = torch.from_numpy(np.stack([speech(3, 6), speech(40, 6)]))
    with torch.inference_mode():
        at_once, after = model(pcm, model.initial_state(2), 6)
        torch.testing.assert_close(at_once, plain(pcm, plain.initial_state(2), 6)[0])
        state, steps = model.initial_state(2), []
        for i in range(6):
            answer, state = model(pcm[:, i * 1280 : (i + 1) * 1280], state)
            steps.append(answer[:, 0])
    torch.testing.assert_close(torch.stack(steps, dim=1), at_once, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state["intensity"], after["intensity"], atol=1e-5, rtol=1e-4)
    assert after["intensity"].abs().min() > 1e-4


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Angry clips, the strong ones much faster and higher; a sad one whose intensity must not matter."""
    folder = tmp_path_factory.mktemp("told")
    angry = [c for c in find_clips(CALIBRATION) if c.label == LABELS.index("angry")]
    sad = next(c for c in find_clips(CALIBRATION) if c.label == LABELS.index("sad"))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label7", "split", "intensity"])
        for i, clip in enumerate(angry[:24]):
            audio = load_audio(clip.path, 8000)
            for name, speed in (("normal", 1.0), ("strong", 1.7)):
                soundfile.write(folder / f"{i}_{name}.wav", change_speed(audio, speed), 8000)
                writer.writerow([f"{i}_{name}.wav", "angry", "dev" if i % 3 == 0 else "train", name])
        soundfile.write(folder / "sad.wav", load_audio(sad.path, 8000), 8000)
        writer.writerow(["sad.wav", "sad", "dev", "strong"])
    return folder


def test_learns_a_difference_that_is_there(told: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a.safetensors", "b.safetensors"):
        report = fit_intensity([told], DEFAULT_CHECKPOINT, tmp_path / name, 1)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    assert report["clips"] == {"train": 32, "dev": 16}
    streamed = evaluate_intensity(TorchModel(tmp_path / "a.safetensors"), read_manifest(told, "dev"))
    assert streamed is not None
    assert streamed["clips"] == 16
    assert streamed["macro_f1"] > 0.8
    assert streamed["macro_f1"] == pytest.approx(report["dev_intensity_macro_f1"], abs=1e-4)
    fitted, base = load_checkpoint(tmp_path / "a.safetensors").state_dict(), load_checkpoint().state_dict()
    for key, value in base.items():  # the second head is the classifier's last row
        seven = slice(None, len(LABELS)) if key.startswith("head.classifier") else ...
        torch.testing.assert_close(fitted[key][seven], value[seven])


def test_inputs_are_those_of_the_clips_drawn(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of several corpora are drawn by chance: what was not drawn has no row (it was memory as it came, once)."""
    model = with_intensity_head(load_checkpoint(DEFAULT_CHECKPOINT))
    corpus = Corpus(angry_clips([told], "dev")[:3], model.config.sample_rate, model.config.step_samples)
    every, order = gathered(model, corpus, None, None)
    monkeypatch.setattr(corpus, "drawn", lambda count, rng: np.array([2, 2, 0]))
    monkeypatch.setattr(corpus, "_vary", lambda audio, rng: audio)
    inputs, places = gathered(model, corpus, None, np.random.default_rng(1))
    assert places.tolist() == [2, 2, 0]
    torch.testing.assert_close(inputs, every[[int(np.flatnonzero(order == i)[0]) for i in places]], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_fitted_is_refused(told: Path, tmp_path: Path) -> None:
    weak = tmp_path / "weak"
    weak.mkdir()
    (weak / "0_normal.wav").write_bytes((told / "0_normal.wav").read_bytes())
    (weak / "manifest.csv").write_text("path,label7,split,intensity\n0_normal.wav,angry,train,normal\n")
    with pytest.raises(EdgeEmoError, match="both intensities"):
        fit_intensity([weak], DEFAULT_CHECKPOINT, tmp_path / "x", 1)
    save_checkpoint(MfccBiLstm(), tmp_path / "other.safetensors")
    with pytest.raises(EdgeEmoError, match="MFCC"):
        fit_intensity([told], tmp_path / "other.safetensors", tmp_path / "x", 1)
    refused = CliRunner().invoke(
        main, ["train", "--intensity", "--data", str(told), "--epochs", "3", "--out", str(tmp_path / "x")]
    )
    assert refused.exit_code == 2
    assert "--init, --seed, --threads" in refused.output
    assert not (tmp_path / "x").exists()
