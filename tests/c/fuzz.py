"""`make fuzz-c`: python -m tests.c.fuzz ARTIFACT COUNT damages COUNT artifacts and makes COUNT calls, seeds 1 to 10."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.c.test_fuzz import build, run, small_archive

SEEDS = 10


def main(artifact: Path, count: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        driver, small = build(folder / "fuzz"), small_archive(artifact, folder / "small.edgeemo")
        for seed in range(1, SEEDS + 1):
            print(seed, run(driver, "archive", small, seed, count // SEEDS), flush=True)
            print(seed, run(driver, "api", artifact, seed, count // SEEDS), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
