"""Proof that a change of the compiler changed no artifact: compiles the committed models here and at another commit.

    python -m tests.compile.unchanged [--against REV] [--target NAME]... [MODEL ...]

Both compile the same INT8 ONNX files, which this checkout makes once in build/unchanged/onnx (quantized on 20 clips of
calibration/). Manifests, code and weights must be equal to the byte; what differs is named, and the exit code is 1. Uncommitted
changes count as here. A commit's artifacts stay in build/unchanged, so that the next run compiles one side only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "unchanged"
MODELS = ("cosyvoice-tiny", "cosyvoice-nano", "mfcc-bilstm")  # whisper-tiny-cls needs the teacher's package
TARGETS = ("aarch64-neon", "host")
CLIPS = 20
RUN = "import importlib, sys; module, name = sys.argv.pop(1).split(':'); getattr(importlib.import_module(module), name)()"


def differences(before: Path, after: Path) -> list[str]:
    """Names of the members of two artifacts that are not the same bytes; of those that only one of them has, too."""
    sums = []
    for path in (before, after):
        with zipfile.ZipFile(path) as archive:
            sums.append({name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()})
    return sorted(name for name in {*sums[0], *sums[1]} if sums[0].get(name) != sums[1].get(name))


def make_onnx(model: str) -> Path:
    """The model's INT8 ONNX file, made where it is not there yet."""
    path = BUILD / "onnx" / f"{model}.onnx"
    if not path.exists():
        import onnx

        from edgeemo.data.clips import evenly, find_clips
        from edgeemo.export.onnx_step import export_step
        from edgeemo.model.checkpoint import committed_checkpoint, load_checkpoint
        from edgeemo.quantize import DEFAULT_RECIPE
        from edgeemo.quantize.plan import quantize_model
        from edgeemo.quantize.recipe import load_recipe

        clips = evenly(find_clips(ROOT / "calibration"), CLIPS)
        exported = export_step(load_checkpoint(committed_checkpoint(model)))
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(quantize_model(exported, model, clips, load_recipe(DEFAULT_RECIPE))[0], path)
    return path


def compile_at(checkout: Path, model: Path, target: str, out: Path) -> None:
    """Runs the ``edgeemo compile`` of a checkout, by the entry point that its pyproject.toml names."""
    entry = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["scripts"]["edgeemo"]
    out.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": f"{checkout}:{checkout / 'runtime'}", "SOURCE_DATE_EPOCH": "0"}
    options = ["compile", str(model), "--target", target, "--out", str(out), "--force", "--json"]
    subprocess.run(
        [sys.executable, "-c", RUN, entry, *options], cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL
    )


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def compile_before(commit: str, wanted: dict[tuple[str, str], Path]) -> None:
    """Fills in artifacts of another commit that are not there yet. ``wanted``: (model, target) to the artifact's file."""
    missing = {key: path for key, path in wanted.items() if not path.exists()}
    if not missing:
        return
    checkout = BUILD / "checkout"
    shutil.rmtree(checkout, ignore_errors=True)  # of a run that was interrupted
    git("worktree", "prune")
    git("worktree", "add", "--force", "--detach", str(checkout), commit)
    try:
        for (model, target), path in missing.items():
            print(f"{commit[:9]} {model} {target}", flush=True)
            compile_at(checkout, make_onnx(model), target, path)
    finally:
        git("worktree", "remove", "--force", str(checkout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)} [default: all]")
    parser.add_argument("--against", default="HEAD", metavar="REV", help="commit to compare with [default: HEAD]")
    parser.add_argument("--target", action="append", choices=TARGETS, help="[default: both]")
    options = parser.parse_args()
    if unknown := set(options.models) - set(MODELS):
        parser.error(f"no committed model {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    commit = git("rev-parse", "--verify", f"{options.against}^{{commit}}")
    keys = [(m, t) for m in options.models or MODELS for t in options.target or TARGETS]
    before = {(m, t): BUILD / commit / f"{m}-{t}.edgeemo" for m, t in keys}
    compile_before(commit, before)
    changed = False
    for model, target in keys:
        after = BUILD / "here" / f"{model}-{target}.edgeemo"
        compile_at(ROOT, make_onnx(model), target, after)
        found = differences(before[model, target], after)
        changed |= bool(found)
        print(f"here {model} {target}: {'differs in ' + ', '.join(found) if found else 'the same bytes'}", flush=True)
    sys.exit(int(changed))


if __name__ == "__main__":
    main()
