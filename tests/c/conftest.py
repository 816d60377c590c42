"""The C library, built once; and sounds to push."""

from __future__ import annotations

import numpy as np
import pytest

from tests.c.building import build
from tests.c.library import Library
from tests.conftest import speech


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(build(tmp_path_factory.mktemp("libedgeemo")))


@pytest.fixture(scope="session")
def sounds() -> list[np.ndarray]:
    """Speech, silence with speech, and noise, float32 in [-1, 1]."""
    clips = [speech(i, 25) for i in (0, 40, 90)]
    half = clips[0].copy()
    half[8000:24000] = 0
    return [*clips, half, np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)]
