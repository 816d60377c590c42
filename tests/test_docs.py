"""Documents name files and functions that are there, and their links lead somewhere (on GitHub; `make docs` checks the site)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| `([\w/.-]+\.py)` \| (.*) \|$", re.M)
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")
PATH = re.compile(r"(?<![\w/.])((?:edgeemo|runtime|tests|targets|docs|[a-z_]+)/[\w/-]+\.(?:py|md|toml))\b|\((\w+\.py)\)")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
DOCUMENTS = sorted(
    p.relative_to(ROOT)
    for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("edgeemo/model/weights/*.md"), ROOT / "runtime/README.md")
)


def defined(source: str, name: str) -> bool:
    """Whether ``source`` defines a function, class or constant by the last part of ``name``."""
    last = re.escape(name.rpartition(".")[2])
    return re.search(rf"^\s*(?:def|class) {last}\b|^{last}\b.* = ", source, re.M) is not None


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "docs/kernels.md"])
def test_tables_of_files_and_functions_are_true(document: str) -> None:
    rows = ROW.findall((ROOT / document).read_text())
    assert rows
    for path, cell in rows:
        source = (ROOT / path).read_text()
        names = NAME.findall(cell.partition(":")[0])
        assert names, f"{path}: no name in {cell!r}"
        assert [n for n in names if not defined(source, n)] == [], path


def test_paths_that_code_and_documents_name_are_there() -> None:
    """Renamed files leave no old names behind. NAME and the like stand for any file; the changelog tells of the past."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    if not tracked:
        pytest.skip("no git checkout")
    endings = {"/".join(parts[i:]) for parts in (path.split("/") for path in tracked) for i in range(len(parts))}
    stale = []
    for path in tracked:
        if path.endswith((".py", ".md")) and path not in ("CHANGELOG.md", "tests/test_docs.py") and (ROOT / path).is_file():
            for found in PATH.finditer((ROOT / path).read_text()):
                name = found[1] or found[2]
                if name not in endings and not re.search("[A-Z]{2}|^build/", name):
                    stale.append(f"{path}: {name}")
    assert stale == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_to_files(document: Path) -> None:
    here = (ROOT / document).parent
    assert [link for link in LINK.findall((ROOT / document).read_text()) if not (here / link).exists()] == []


def test_the_checks_find_what_is_not_there() -> None:
    assert defined("    def push(self) -> None:\n", "Stream.push") and defined("PASSES: tuple = (\n", "PASSES")
    assert not defined("    self.push()\n", "Stream.push")
    assert LINK.findall("[a](docs/none.md#x) [b](https://x.y) [c](#d)") == ["docs/none.md"]
