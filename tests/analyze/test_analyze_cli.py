"""`edgeemo analyze` from the command line to a page in a browser, and `edgeemo tune`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from edgeemo.cli.main import main
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
        said = edgeemo("analyze", small_file, "--calib", calib, "--out", page, "--save-recipe", recipe, "--budget", 8, "--json")
    assert said.exit_code == 0, said.output
    return page, recipe, json.loads(said.stdout)


def test_the_document_names_every_part_most_harmful_first(analysed: tuple[Path, Path, dict[str, Any]]) -> None:
    parts = analysed[2]["parts"]
    harm = [p["alone_error"] for p in parts]
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


@pytest.mark.slow
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
    base = ("tune", small_file, "--calib", calib, "--budget", 6)
    found = edgeemo(*base, "--max-f1-drop", 0.5, "--out", "r.toml", "--save-model", "q.onnx", "--json")
    assert found.exit_code == 0, found.output
    assert "asked for: a drop of macro-F1 of at most 0.5" in Path("r.toml").read_text()
    document = json.loads(found.stdout)
    assert (document["out"], document["model"]) == ("r.toml", "q.onnx") and document["best"] == 0
    again = edgeemo("quantize", small_file, "--calib", calib, "--recipe", "r.toml", "--out", "same.onnx")
    assert again.exit_code == 0, again.output
    assert onnx.load("q.onnx").graph == onnx.load("same.onnx").graph
    missed = edgeemo(*base, "--max-f1-drop", -1, "--out", "x.toml", "--save-model", "x.onnx")
    assert missed.exit_code == 1
    assert "no recipe of" in missed.stderr and "--budget 6" in missed.stderr
    assert not Path("x.toml").exists() and not Path("x.onnx").exists()


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two layers, and feeds of them; the second's input has a channel a hundred times as large as the others."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("feeds")
    weights = {n: (rng.standard_normal((16, 16)) / 4).astype(np.float32) for n in ("first", "second")}
    weights["first"][:, 0] *= 100
    weights["second"][0] /= 100
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "second"], ["y"], name="second"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 16]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(w, n) for n, w in weights.items()])
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    for i in range(6):
        np.savez(folder / f"{i}.npz", x=rng.standard_normal((8, 16)).astype(np.float32))
    return path, folder


def test_a_model_that_hears_no_audio_is_analysed_on_feeds(
    feeds: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, folder = feeds
    said = edgeemo("analyze", model, "--feeds", folder, "--min-sqnr", 35, "--out", "a.html", "--save-recipe", "r.toml", "--json")
    assert said.exit_code == 0, said.output
    document = json.loads(said.stdout)
    assert document["evaluation"]["measure"] == "noise / signal" and document["evaluation"]["files"] == 6
    assert [p["name"] for p in document["parts"]] == ["second", "first"]
    best = document["proposal"]["points"][document["proposal"]["best"]]
    assert best["kept"] == ["second"] and best["sqnr_db"] >= 35 > document["base"]["sqnr_db"]
    assert "noise / signal" in Path("a.html").read_text()
    done = edgeemo("quantize", model, "--feeds", folder, "--recipe", "r.toml", "--out", "q.onnx", "--json")
    assert done.exit_code == 0, done.output
    assert {x["name"]: x["precision"] for x in json.loads(done.stdout)["layers"]} == {"first": "int8", "second": "fp16"}
    labels = edgeemo("analyze", model, "--feeds", folder, "--max-f1-drop", 0.01, "--force")
    assert labels.exit_code == 2 and "--min-sqnr does without" in labels.stderr
    split = edgeemo("analyze", model, "--feeds", folder, "--split", "dev", "--force")
    assert split.exit_code == 2 and "--split is of a folder of clips" in split.stderr


def test_a_model_that_hears_no_audio_is_tuned_by_its_noise(
    feeds: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, folder = feeds
    base = ("tune", model, "--feeds", folder, "--out", "r.toml")
    said = edgeemo(*base, "--min-sqnr", 35)
    assert said.exit_code == 0, said.output
    assert "second in FP16" in said.stdout and 'match = "^second$"' in Path("r.toml").read_text()
    missed = edgeemo(*base, "--min-sqnr", 300, "--force")
    assert missed.exit_code == 1 and "reaches an SQNR of the answers of at least 300.0 dB; nearest: " in missed.stderr


def test_mistakes(small_file: Path, calib: Path, tmp_path: Path) -> None:
    def refused(*args: object) -> str:
        done = edgeemo("analyze", small_file, "--out", tmp_path / "a.html", "--save-recipe", tmp_path / "p.toml", *args)
        assert done.exit_code in (1, 2) and not (tmp_path / "a.html").exists()
        return done.stderr

    assert "no such folder" in refused("--calib", tmp_path / "none")
    assert "neither a file nor one of" in refused("--calib", calib, "--recipe", "x")
    assert "'z80' is not one of" in refused("--calib", calib, "--target", "z80")
    unlabelled = tmp_path / "clips"
    unlabelled.mkdir()
    shutil.copy(CLIPS[0].path, unlabelled)
    assert "--max-f1-drop needs labels" in refused("--calib", unlabelled, "--max-f1-drop", "0.01")
