"""Takes real clips from a folder with CREMA-D: 172 of train speakers for calibration/, 300 of test speakers for speech/.

    python calibration/take_clips.py FOLDER

FOLDER has a manifest.csv (path, corpus, speaker, label7, split, ...) and 8 kHz Ogg Opus clips; files are copied as they are. The
six classes that CREMA-D has are balanced, and speakers within a class: clips go by the SHA-1 of their name, a speaker at a time.
The same folder gives the same files. Surprise, which CREMA-D has not, stays with make_clips.py's 28.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import sys
from itertools import zip_longest
from pathlib import Path

HERE = Path(__file__).parent
SPEECH = HERE.parent / "speech"
LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad")
SYNTHETIC, IN_ALL, TO_TEST = 28, 200, 300
HOW = "CREMA-D, unchanged samples, 8 kHz, Ogg Opus"


def chosen(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """``count`` of them, one of each speaker before the second of any."""
    by_name = sorted(rows, key=lambda r: hashlib.sha1(Path(r["path"]).name.encode()).hexdigest())
    speakers: dict[str, list[dict[str, str]]] = {}
    for row in by_name:
        speakers.setdefault(row["speaker"], []).append(row)
    rounds = zip_longest(*speakers.values())
    return [row for one in rounds for row in one if row is not None][:count]


def take(folder: Path, split: str, total: int, to: Path) -> list[dict[str, str]]:
    """Copies ``total`` clips of a split to ``to``; rows of a manifest, sorted."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["corpus"] == "cremad" and r["split"] == split]
    to.mkdir(parents=True, exist_ok=True)
    taken = []
    for i, label in enumerate(LABELS):
        count = total // len(LABELS) + (i < total % len(LABELS))
        for row in chosen([r for r in rows if r["label7"] == label], count):
            path = to / f"{label}_{Path(row['path']).name}"
            shutil.copyfile(folder / row["path"], path)
            taken.append({"path": f"clips/{path.name}", "label": label, "speaker": row["speaker"], "sex": row["sex"], "how": HOW,
                          "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})  # fmt: skip
    return sorted(taken, key=lambda r: r["path"])


def write(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    folder = Path(sys.argv[1])
    with (HERE / "manifest.csv").open(newline="", encoding="utf-8") as file:
        synthetic = [r for r in csv.DictReader(file) if r["label"] == "surprise"][:SYNTHETIC]
    for path in (HERE / "clips").iterdir():
        if f"clips/{path.name}" not in {r["path"] for r in synthetic}:
            path.unlink()
    real = take(folder, "train", IN_ALL - SYNTHETIC, HERE / "clips")
    write(HERE / "manifest.csv", ["path", "label", "speaker", "sex", "how", "sha256"], [*real, *synthetic])
    shutil.rmtree(SPEECH / "clips", ignore_errors=True)
    unheard = [{**r, "corpus": "cremad", "split": "test"} for r in take(folder, "test", TO_TEST, SPEECH / "clips")]
    write(SPEECH / "manifest.csv", ["path", "label", "corpus", "speaker", "sex", "split", "how", "sha256"], unheard)


if __name__ == "__main__":
    main()
