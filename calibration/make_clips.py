"""Makes synthetic clips, of which calibration/ has those of surprise.

Espeak-ng speech with prosody and voice quality set per emotion, over a telephone line.

    python calibration/make_clips.py FOLDER

Synthetic throughout, and said so in the manifest: no person is recorded. The clips give activations a range and a shape
(level, pitch, rate, spectral tilt, tremor, breath); they are no evidence of how well emotions are recognised. Same espeak-ng,
same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 8000
COUNT = 200
SEED = 20260101
LABELS = ("angry", "happy", "sad", "neutral", "fear", "disgust", "surprise")

TEXTS = {
    "en-us": ["I have been waiting for half an hour.", "The parcel was to arrive on Monday.", "Could you look at my account?"],
    "en-gb": ["Nobody told me about the new contract.", "It is the third time I call.", "Somebody was to ring me back."],
    "de": ["Ich warte schon seit einer halben Stunde.", "Das Paket sollte am Montag kommen.", "Niemand hat mir davon erzählt."],
    "fr-fr": ["J'attends depuis une demi-heure.", "Le colis devait arriver lundi.", "Personne ne m'en a parlé."],
    "es": ["Llevo media hora esperando.", "El paquete tenía que llegar el lunes.", "Nadie me lo había dicho."],
    "it": ["Aspetto da mezz'ora.", "Il pacco doveva arrivare lunedì.", "Nessuno me lo aveva detto."],
}  # fmt: skip
VARIANTS = ("m1", "m3", "m5", "m7", "f1", "f2", "f3", "f4", "f5", "Andrea", "michel", "Alicia")


@dataclass(frozen=True)
class Manner:
    """How an emotion is spoken here. Ranges are uniform; literature on vocal affect (Scherer 2003) gives the directions."""

    pitch: tuple[int, int]  # espeak-ng 0..99
    spread: tuple[int, int]  # pitch range in percent of espeak-ng's
    rate: tuple[int, int]  # words a minute
    level_db: tuple[float, float]  # RMS against full scale
    contour: tuple[float, float]  # playback speed at start and end: under 1 falls and drags
    tremor: tuple[float, float]  # Hz, depth
    tilt: float  # first-order emphasis: > 0 brighter, < 0 darker
    breath: float  # noise under the voice's envelope
    drive: float  # soft clipping: a pressed voice


MANNERS = {
    "angry": Manner((45, 65), (110, 160), (190, 240), (-20, -12), (1.03, 0.97), (0, 0), 0.5, 0.01, 3.0),
    "happy": Manner((60, 80), (140, 200), (175, 220), (-24, -16), (0.98, 1.06), (0, 0), 0.3, 0.02, 1.2),
    "sad": Manner((20, 40), (30, 60), (100, 135), (-38, -28), (1.0, 0.90), (0, 0), -0.6, 0.06, 1.0),
    "neutral": Manner((40, 60), (80, 110), (150, 180), (-28, -20), (1.0, 1.0), (0, 0), 0.0, 0.01, 1.0),
    "fear": Manner((65, 90), (60, 110), (190, 245), (-32, -22), (1.0, 1.05), (7.0, 0.25), 0.1, 0.08, 1.0),
    "disgust": Manner((15, 40), (60, 120), (110, 150), (-30, -20), (1.0, 0.94), (28.0, 0.30), -0.3, 0.03, 2.0),
    "surprise": Manner((60, 85), (170, 230), (150, 200), (-24, -14), (0.94, 1.14), (0, 0), 0.3, 0.02, 1.2),
}


def synthesise(text: str, voice: str, pitch: int, spread: int, rate: int) -> np.ndarray:
    """espeak-ng's speech at 8 kHz, float64."""
    markup = f'<speak><prosody range="{spread}%">{text}</prosody></speak>'
    command = ["espeak-ng", "--stdout", "-m", "-v", voice, "-p", str(pitch), "-s", str(rate), markup]
    try:
        wave = subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError:
        sys.exit("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    samples, source_rate = soundfile.read(io.BytesIO(wave), dtype="float64")
    return soxr.resample(samples, source_rate, RATE)


def speak(samples: np.ndarray, manner: Manner, level_db: float, rng: np.random.Generator) -> np.ndarray:
    """Voice quality on top of the synthesiser's prosody, then level."""
    start, end = manner.contour
    speed = np.linspace(start, end, len(samples))  # a glide of pitch and tempo over the whole utterance
    at = np.cumsum(speed)
    samples = np.interp(np.arange(0, at[-1]), at, samples)
    time = np.arange(len(samples)) / RATE
    hertz, depth = manner.tremor
    samples = samples * (1 + depth * np.sin(2 * np.pi * hertz * time))
    samples[1:] = samples[1:] - manner.tilt * samples[:-1]
    envelope = np.sqrt(np.convolve(samples**2, np.ones(160) / 160, mode="same"))
    samples = samples + manner.breath * envelope * rng.standard_normal(len(samples)) * 3
    peak = np.abs(samples).max()
    samples = np.tanh(manner.drive * samples / peak) if manner.drive > 1 else samples / peak
    samples = samples * 10 ** (level_db / 20) / np.sqrt((samples**2).mean())
    return np.clip(samples, -0.999, 0.999)


def telephone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """300-3400 Hz, line noise at 25-45 dB, mu-law and back."""
    spectrum = np.fft.rfft(samples)
    f = np.fft.rfftfreq(len(samples), 1 / RATE)
    spectrum *= 1 / np.sqrt(1 + (250 / np.maximum(f, 1)) ** 6) / np.sqrt(1 + (f / 3500) ** 16)
    narrow = np.fft.irfft(spectrum, len(samples))
    noise = rng.standard_normal(len(narrow)) * np.sqrt((narrow**2).mean()) * 10 ** (-rng.uniform(25, 45) / 20)
    x = np.clip(narrow + noise, -1, 1)
    code = np.round(np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256) * 127) / 127
    return np.sign(code) * (256 ** np.abs(code) - 1) / 255


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: make_clips.py FOLDER; in calibration/ itself real clips have taken the place of most")
    folder = Path(sys.argv[1])
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    rows = []
    for number in range(COUNT):
        label = LABELS[number % len(LABELS)]
        manner = MANNERS[label]
        language = list(TEXTS)[int(rng.integers(len(TEXTS)))]
        text = TEXTS[language][int(rng.integers(3))]
        voice = f"{language}+{VARIANTS[int(rng.integers(len(VARIANTS)))]}"
        pitch, spread, rate = (int(rng.integers(low, high + 1)) for low, high in (manner.pitch, manner.spread, manner.rate))
        level = float(rng.uniform(*manner.level_db))
        spoken = speak(synthesise(text, voice, pitch, spread, rate), manner, level, rng)
        samples = telephone(spoken[: 4 * RATE], rng)
        path = Path("clips") / f"{label}_{number // len(LABELS):03}.flac"
        soundfile.write(folder / path, samples, RATE, subtype="PCM_16")
        how = (
            f"synthetic: espeak-ng -v {voice} -p {pitch} -s {rate}, range {spread}%, {level:.1f} dB, manner {label}, mu-law line"
        )
        rows.append([str(path), label, how, hashlib.sha256((folder / path).read_bytes()).hexdigest()])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "how", "sha256"])
        writer.writerows(sorted(rows))


if __name__ == "__main__":
    main()
