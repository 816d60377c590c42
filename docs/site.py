"""Brings documents from outside docs/ into the site (mkdocs.yml); links that are right on GitHub become the site's own."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
CARDS = "edgeemo/model/weights"
PAGES = {  # file in the repository -> page of the site
    "README.md": "index.md",
    **{name: name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")},
    **{f"{CARDS}/{card.name}": f"model-cards/{card.name}" for card in (ROOT / CARDS).glob("*.md")},
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```.*?^```$)", re.M | re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a document becomes one to its page; one to code, which the site does not have, becomes its name."""
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")

    def moved(match: re.Match[str]) -> str:
        text, link, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if not (ROOT / target).exists():
            return match[0]  # mkdocs names it
        if target not in PAGES and not target.startswith("docs/"):
            return text
        to = PAGES.get(target, target.removeprefix("docs/"))
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(here) or '.')}{anchor})"

    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in FENCE.split(markdown))
