from __future__ import annotations

from pathlib import Path

import pytest
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.compile import targets


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('s8 = "neon"', 's8 = "sve"', "neon or portable"),
        ("f16 = [8, 8]", "f16 = [8, 16]", "f16 is 8 x 16"),
        ("f32 = [4, 16]", "f32 = [3, 16]", "f32 is 3 x 16"),
        ("block_kib = 16", "", "block_kib"),
        ("[kernels]", "[kernels", "not a target file"),
    ],
)
def test_a_bad_target_file_is_named_with_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    text = (targets.FOLDERS[0] / "aarch64-neon.toml").read_text()
    assert old in text
    (tmp_path / "board.toml").write_text(text.replace(old, new))
    monkeypatch.setattr(targets, "FOLDERS", (tmp_path,))
    with pytest.raises(EdgeEmoError, match=said) as error:
        targets.load_target("board")
    assert "board.toml" in str(error.value)


def test_an_unknown_target_lists_those_there_are() -> None:
    with pytest.raises(EdgeEmoError, match="aarch64-neon, host"):
        targets.load_target("cortex-z1")
