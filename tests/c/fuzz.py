"""`make fuzz-c`: python -m tests.c.fuzz ARTIFACT COUNT [FIRST] damages COUNT artifacts and makes COUNT calls, ten seeds
from FIRST (1) on."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.c.test_fuzz import build, run, small_archive

SEEDS = 10


def main(artifact: Path, count: int, first: int = 1) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        driver, small = build(folder / "fuzz"), small_archive(artifact, folder / "small.edgeemo")
        for seed in range(first, first + SEEDS):
            print(seed, run(driver, "archive", small, seed, count // SEEDS), flush=True)
            print(seed, run(driver, "api", artifact, seed, count // SEEDS), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
