"""docs/c-api.md: README.md of this folder, then every function, struct and enumeration of edgeemo.h with its comment.

python runtime/c/document.py > docs/c-api.md
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
SECTION = re.compile(r"/\* -+ (.+?) -+ \*/")


def _text(comment: str) -> str:
    return " ".join(line.strip().removeprefix("*").strip() for line in comment.strip().splitlines()).strip()


def document() -> str:
    """The page's text."""
    header = (FOLDER / "include" / "edgeemo.h").read_text()
    page = (FOLDER / "README.md").read_text().rstrip() + "\n\n# Reference\n\n"
    page += "Written from the comments of `edgeemo.h` by `runtime/c/document.py`.\n"
    parts = SECTION.split(header[header.index("/* ----") :])
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        page += f"\n## {title}\n"
        body = body.split("#ifdef __cplusplus")[0]
        for block in re.split(r"\n\n(?=/\*|typedef|EDGEEMO_API|#define)", body):
            block = block.strip()
            if not block:
                continue
            comment = re.match(r"/\*(.*?)\*/\n", block, re.DOTALL)
            code = (block[comment.end() :] if comment else block).replace("EDGEEMO_API ", "").strip()
            said = f"\n{_text(comment[1])}\n" if comment else ""
            page += f"{said}\n```c\n{code}\n```\n"
    return page


if __name__ == "__main__":
    print(document(), end="")
