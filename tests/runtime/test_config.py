from __future__ import annotations

from pathlib import Path

import pytest
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.ops.canary import seconds
from edgeemo_runtime.ops.config import Config, load_config


def written(folder: Path, text: str) -> Path:
    (folder / "run.toml").write_text(text)
    return folder / "run.toml"


def test_what_is_not_said_is_default(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == Config()


def test_preset_and_a_key_on_top_of_it(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, '[decision]\npreset = "in-car"\nhandoff = false\n[engine]\nbudget_ms = 15\n'))
    assert (config.decision.alpha, config.decision.handoff, config.engine.budget_ms) == (0.5, False, 15.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[engin]\n", "no section [engin]; there are engine"),
        ("engine = 3\n", "write [engine]"),
        ("[engine]\nstreams = 3\n", "[engine] has no key streams; there are max_streams"),
        ('[engine]\nmax_streams = "many"\n', "[engine] max_streams must be a whole number, not 'many'"),
        ("[engine]\nspread_phases = 1\n", "[engine] spread_phases must be true or false, not 1"),
        ('[engine]\noverload = "panic"\n', "overload must be one of refuse, drop-oldest, not panic"),
        ("[decision]\nalpha = 0\n", "[decision] alpha must lie in (0, 1], not 0.0"),
        ('[decision]\npreset = "loud"\n', "preset must be one of call-centre, in-car, raw"),
        ('[audio]\ngaps = "x"\n', "gaps must be one of fill, reset"),
        ("[canary]\nshare = 1.0\n", "share must lie between 0 and 1, not 1.0"),
        ('[canary]\nobserve = "soon"\n', "observe 'soon' is no time"),
        ("[engine]\npriority = 100\n", "priority must lie in 0..99, not 100"),
        ("[engine\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_section_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(EdgeEmoError) as error:
        load_config(written(tmp_path, text))
    assert str(error.value).startswith(f"{tmp_path}/run.toml: ")
    assert words in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeEmoError, match=r"no\.toml: cannot be read"):
        load_config(tmp_path / "no.toml")


def test_times() -> None:
    assert [seconds(t) for t in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]
