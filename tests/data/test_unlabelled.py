"""A folder of speech without labels may have a manifest, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.data.clips import find_clips, read_manifest


def test_a_manifest_without_labels_lists_speech(tmp_path: Path) -> None:
    (tmp_path / "a.ogg").write_bytes(b"")
    (tmp_path / "manifest.csv").write_text("path,source,speaker\na.ogg,prompts,s1\n")
    (clip,) = find_clips(tmp_path)
    assert (clip.path.name, clip.label, clip.speaker) == ("a.ogg", None, "s1")
    with pytest.raises(EdgeEmoError, match="label7"):
        read_manifest(tmp_path)
