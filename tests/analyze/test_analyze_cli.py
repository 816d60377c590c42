"""`edgeemo analyze` from the command line to a page in a browser, and `quantize --max-f1-drop`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeemo.cli import main
from tests.analyze.conftest import CLIPS

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def edgeemo(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calib")
    rows = []
    for clip in CLIPS:
        shutil.copy(clip.path, folder)
        rows.append(f"{clip.path.name},{clip.path.stem.split('_')[0]}")
    (folder / "manifest.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def analysed(small_file: Path, calib: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("analysis")
    page, recipe = folder / "a.html", folder / "p.toml"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        said = edgeemo("analyze", small_file, "--calib", calib, "--out", page, "--propose", recipe, "--budget", 8, "--json")
    assert said.exit_code == 0, said.output
    return page, recipe, json.loads(said.stdout)


def test_the_document_names_every_part_most_harmful_first(analysed: tuple[Path, Path, dict[str, Any]]) -> None:
    parts = analysed[2]["parts"]
    harm = [p["alone_kl"] for p in parts]
    assert len(parts) >= 5 and harm == sorted(harm, reverse=True)
    assert all(p["sqnr_db"] > 0 and p["macs"] > 0 and len(p["input_channels"]) > 0 for p in parts)


def test_the_proposed_recipe_is_one_that_quantize_takes(
    analysed: tuple[Path, Path, dict[str, Any]], small_file: Path, calib: Path, tmp_path: Path
) -> None:
    _, recipe, document = analysed
    best = document["proposal"]["points"][document["proposal"]["best"]]
    assert best["sqnr_db"] >= document["base"]["sqnr_db"] + 3
    assert recipe.read_text().startswith("# found by edgeemo analyze")
    done = edgeemo("quantize", small_file, "--calib", calib, "--recipe", recipe, "--out", tmp_path / "q.onnx", "--json")
    assert done.exit_code == 0, done.output
    kept = set(best["kept"])
    assert kept <= {layer["name"] for layer in json.loads(done.stdout)["layers"] if layer["precision"] != "int8"}


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; `make browser`")
def test_the_page_in_a_browser(analysed: tuple[Path, Path, dict[str, Any]]) -> None:
    """Every plot is drawn, the table sorts by a click both ways, and nothing is fetched from outside."""
    playwright = pytest.importorskip("playwright.sync_api")
    page_path, _, document = analysed
    with playwright.sync_playwright() as p:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = p.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda r: asked.append(r.url))
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.goto(page_path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        drawn = page.evaluate(
            "[...document.querySelectorAll('.plot')].map(d => { const s = d.querySelector('svg');"
            " return s ? s.getBoundingClientRect().height * s.querySelectorAll('path, use').length : 0; })"
        )
        column = page.locator("#parts th").filter(has_text="SQNR dB")
        orders = []
        for _ in range(2):
            column.click()
            cells = page.evaluate("[...document.querySelectorAll('#parts tbody tr')].map(r => Number(r.cells[4].dataset.value))")
            orders.append(cells)
        names = page.evaluate("[...document.querySelectorAll('#parts tbody tr')].map(r => r.cells[0].textContent)")
        browser.close()
    assert len(drawn) == 2 + 2 * len(document["parts"])
    assert all(area > 1000 for area in drawn)
    assert orders[0] == sorted(orders[0], reverse=True) and orders[1] == sorted(orders[1])
    assert sorted(names) == sorted(p["name"] for p in document["parts"])
    assert asked == [page_path.as_uri()]
    assert wrong == []


def test_a_search_ends_with_a_recipe_or_says_how_near_it_came(
    small_file: Path, calib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = ("quantize", small_file, "--calib", calib, "--budget", 6)
    found = edgeemo(*base, "--max-f1-drop", 0.5, "--out", "q.onnx", "--save-recipe", "r.toml")
    assert found.exit_code == 0, found.output
    assert "asked for: a drop of macro-F1 of at most 0.5" in Path("r.toml").read_text()
    missed = edgeemo(*base, "--max-f1-drop", -1, "--out", "x.onnx")
    assert missed.exit_code == 1
    assert "no recipe of" in missed.stderr and "--budget 6" in missed.stderr
    assert not Path("x.onnx").exists()


def test_mistakes(small_file: Path, calib: Path, tmp_path: Path) -> None:
    def refused(*args: object) -> str:
        done = edgeemo("analyze", small_file, "--out", tmp_path / "a.html", "--propose", tmp_path / "p.toml", *args)
        assert done.exit_code in (1, 2) and not (tmp_path / "a.html").exists()
        return done.stderr

    assert "no such folder" in refused("--calib", tmp_path / "none")
    assert "neither a file nor one of" in refused("--calib", calib, "--recipe", "x")
    assert "no target 'z80'" in refused("--calib", calib, "--target", "z80")
    unlabelled = tmp_path / "clips"
    unlabelled.mkdir()
    shutil.copy(CLIPS[0].path, unlabelled)
    assert "--max-f1-drop needs labels" in refused("--calib", unlabelled, "--max-f1-drop", "0.01")
