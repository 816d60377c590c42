"""docs/c-api.md is what the header says."""

from __future__ import annotations

import subprocess
import sys

from tests.c.building import SOURCE
from tests.conftest import ROOT


def test_the_page_is_written_from_the_header() -> None:
    done = subprocess.run([sys.executable, str(SOURCE / "document.py")], check=True, capture_output=True, text=True)
    assert done.stdout == (ROOT / "docs" / "c-api.md").read_text(), "python runtime/c/document.py > docs/c-api.md"
