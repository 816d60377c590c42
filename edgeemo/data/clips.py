"""Folders of clips: what is in them, by manifest where there is one."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgeemo_runtime.audio import SUFFIXES
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.model.config import LABELS

MANIFEST = "manifest.csv"
NORMAL_STRONG = ("normal", "strong")  # what a manifest's column intensity holds
LABEL_COLUMNS = ("label7", "label")
T = TypeVar("T")


@dataclass(frozen=True)
class Clip:
    """One audio file. ``label`` is an index into LABELS, or None where the owners' label is none of the seven."""

    path: Path
    label: int | None = None
    split: str = ""
    corpus: str = ""
    speaker: str = ""
    intensity: str = ""  # normal or strong, where it is known


def _named_intensity(corpus: str, path: Path) -> str:
    """RAVDESS writes it into the file name's fourth field of seven (Livingstone and Russo 2018), CREMA-D into its last of four,
    where it is known (Cao et al. 2014): LO, HI, MD between them."""
    codes, separator, field, count = {"ravdess": (("01", "02"), "-", 3, 7), "cremad": (("LO", "HI"), "_", -1, 4)}.get(
        corpus, ((), "-", 0, 0)
    )
    parts = path.stem.split(separator)
    return dict(zip(codes, NORMAL_STRONG, strict=False)).get(parts[field], "") if len(parts) == count else ""


def _folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise EdgeEmoError(f"{folder}: no such folder; give one with WAV, FLAC or OGG clips in it")
    return folder


def find_clips(folder: str | Path) -> list[Clip]:
    """Every clip of a folder, sorted by path: those its manifest.csv lists, labels or not, or all audio files below it.

    Raises EdgeEmoError if the folder is missing or holds no clip.
    """
    folder = _folder(folder)
    if (folder / MANIFEST).is_file():
        return read_manifest(folder, labelled=False)
    clips = [Clip(p) for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not clips:
        raise EdgeEmoError(f"{folder}: no audio in it ({', '.join(SUFFIXES)}) and no {MANIFEST}")
    return clips


def newest(clips: Iterable[Clip]) -> list[Clip]:
    """Those ``clips`` of several folders that count: of one corpus, speaker and name the last, which mends those before it."""
    kept: dict[object, Clip] = {}
    for clip in clips:
        kept[(clip.corpus, clip.speaker, clip.path.name) if clip.corpus else clip.path] = clip
    return list(kept.values())


def read_manifest(folder: str | Path, split: str | None = None, labelled: bool = True) -> list[Clip]:
    """The clips of ``folder/manifest.csv``, sorted by path. Columns: path, and label7 or label; split, corpus, speaker,
    intensity where known. ``split`` keeps one split; unless ``labelled``, a manifest without a column of labels will do.

    A clip that is listed twice the same way counts once. Raises EdgeEmoError naming the line of a missing file, an unknown label
    or a clip listed twice in two ways, or if nothing is left.
    """
    folder = _folder(folder)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise EdgeEmoError(f"{manifest}: not there; labels come from it (columns path, label7, split, corpus, speaker)")
    clips: dict[Path, Clip] = {}
    reader = _manifest_rows(manifest)
    columns = reader.fieldnames or []
    label_column = next((c for c in LABEL_COLUMNS if c in columns), None)
    if "path" not in columns or (labelled and label_column is None):
        raise EdgeEmoError(f"{manifest}: needs the columns path and label7 (or label); it has {', '.join(columns) or 'none'}")
    if split is not None and "split" not in columns:
        raise EdgeEmoError(f"{manifest}: has no column split, so there is no split {split!r}; leave --split out")
    for row in reader:
        if split is not None and row["split"] != split:
            continue
        clip = _clip(folder, row, label_column, f"{manifest}:{reader.line_num}")
        if clips.setdefault(clip.path, clip) != clip:
            raise EdgeEmoError(f"{manifest}:{reader.line_num}: {clip.path} is listed twice, with other labels; leave one line")
    if not clips:
        which = "lists no clip" if split is None else f"lists no clip of split {split!r}"
        raise EdgeEmoError(f"{manifest}: {which}")
    return sorted(clips.values(), key=lambda c: str(c.path))


def _manifest_rows(manifest: Path) -> csv.DictReader:
    """Rows of a table in any encoding that spreadsheets write (UTF-8 and UTF-16 with their marks, Windows' Latin), separated by
    commas, semicolons or tabs; columns' names in small letters."""
    data = manifest.read_bytes()
    text = ""
    for encoding in ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252"):
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise EdgeEmoError(f"{manifest}: is no text; save it as CSV in UTF-8")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    reader.fieldnames = [(name or "").strip().lower() for name in reader.fieldnames or []]
    return reader


def _clip(folder: Path, row: dict[str, str | None], label_column: str | None, line: str) -> Clip:
    """Raises EdgeEmoError naming the line of a missing file or an unknown label."""
    name = (row[label_column] or "").strip() if label_column else ""
    if name and name not in LABELS:
        raise EdgeEmoError(f"{line}: label {name!r} is none of {', '.join(LABELS)}")
    path = folder / (row["path"] or "").strip()
    if not path.is_file():
        raise EdgeEmoError(f"{line}: {path} is not there")
    corpus = row.get("corpus") or ""
    return Clip(
        path,
        LABELS.index(name) if name else None,
        row.get("split") or "",
        corpus,
        row.get("speaker") or "",
        row.get("intensity") or _named_intensity(corpus, path),
    )


def evenly(files: list[T], limit: int | None) -> list[T]:
    """``limit`` of them, evenly spread, where there are more."""
    return files if limit is None or limit >= len(files) else [files[i * len(files) // limit] for i in range(limit)]


def hash_files(paths: list[Path]) -> str:
    """sha256 over files' bytes in order: which data it was."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
