"""Documents name files and functions that are there, and their links lead somewhere (on GitHub; `make docs` checks the site)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| `([\w/.-]+\.py)` \| (.*) \|$", re.M)
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")
FILE = re.compile(r"`((?:edgeemo|runtime|tests|targets|docs)/[\w./-]*\w)`")
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


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/kernels.md", "docs/glossary.md"])
def test_files_named_are_there(document: str) -> None:
    named = {n for n in FILE.findall((ROOT / document).read_text()) if not re.search("[A-Z]{2,}|/x\\.py", n)}
    assert [n for n in sorted(named) if not (ROOT / n).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_to_files(document: Path) -> None:
    here = (ROOT / document).parent
    assert [link for link in LINK.findall((ROOT / document).read_text()) if not (here / link).exists()] == []


def test_the_checks_find_what_is_not_there() -> None:
    assert defined("    def push(self) -> None:\n", "Stream.push") and defined("PASSES: tuple = (\n", "PASSES")
    assert not defined("    self.push()\n", "Stream.push")
    assert LINK.findall("[a](docs/none.md#x) [b](https://x.y) [c](#d)") == ["docs/none.md"]
