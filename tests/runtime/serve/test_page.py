"""The page in Chromium, with a fake microphone that plays a real clip."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeemo_runtime.serve.settings import AuthRules, Settings

from tests.conftest import speech
from tests.runtime.serve.conftest import Running
from tests.runtime.serve.talk import wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; `make browser`")]
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    soundfile = pytest.importorskip("soundfile")
    playwright = pytest.importorskip("playwright.sync_api")
    clip = tmp_path_factory.mktemp("clip") / "clip.wav"
    soundfile.write(clip, np.asarray(speech(3, 60)), 8000, subtype="PCM_16")
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--use-fake-ui-for-media-stream",
    ]
    flags += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={clip}"]
    with playwright.sync_playwright() as p:
        made = p.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield made
        made.close()


def opened(browser: Any, running: Running, **how: Any) -> tuple[Any, list[str], list[str]]:
    """A page, what it asked for, and what went wrong in it."""
    page = browser.new_page(**how)
    page.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.goto(running.http)
    return page, asked, wrong


def until(page: Any, expression: str) -> None:
    """The page's policy forbids eval, which wait_for_function needs."""
    wait_for(lambda: page.evaluate(expression))


def painted(page: Any, selector: str) -> int:
    """Pixels that are not empty."""
    script = (
        "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
        " for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"
    )
    return page.locator(selector).first.evaluate(script)


def test_a_microphone_is_a_call(browser: Any, running: Running) -> None:
    """The button, by keyboard; the row with its ribbon and label; the curve; the end. Nothing is asked of anybody else."""
    page, asked, wrong = opened(browser, running)
    until(page, "document.getElementById('state').textContent.startsWith('ready')")
    assert "not a fact about a person" in page.inner_text(".notice")
    page.focus("#microphone")
    page.keyboard.press("Enter")
    call = wait_for(lambda: [c for c in running.service.calls.running if c.startswith("microphone-")])[0]
    until(page, "document.querySelector('#calls td:nth-child(4)')?.textContent")
    wait_for(lambda: running.service.calls.running[call].legs["caller"].record.steps > 10)
    wait_for(lambda: painted(page, "canvas.ribbon") > 100)
    said = page.inner_text("#calls td:nth-child(3)")
    assert said in {*running.service.pool.labels, "annoyed", "furious"}
    assert said in page.get_attribute("canvas.ribbon", "aria-label")
    page.focus("#calls button")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('curve-said').textContent.includes('%')")
    wait_for(lambda: painted(page, "#curve") > 100)
    assert call in page.inner_text("#detail-heading")
    page.keyboard.press("Escape")
    assert page.locator("#detail").is_hidden()
    page.click("#microphone")
    until(page, "document.querySelectorAll('#calls tr').length === 0")
    until(page, "document.getElementById('events').textContent.includes('has ended: ended by the client')")
    ended = running.service.calls.ended[call]
    assert ended["legs"]["caller"]["seconds"] > 1.5 and ended["rate"] >= 44100
    host = running.http.removeprefix("http://")
    assert {u.split("/")[2] for u in asked if not u.startswith("data:")} == {host}
    assert wrong == []
    page.close()


def test_a_telephones_width_and_a_dark_room(browser: Any, running: Running) -> None:
    page, _, wrong = opened(browser, running, viewport={"width": 360, "height": 740}, color_scheme="dark")
    until(page, "document.getElementById('state').textContent.startsWith('ready')")
    page.click("#microphone")
    until(page, "document.querySelectorAll('#calls tr').length === 1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 26)"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, canvas')].filter(e => !e.textContent && !e.labels?.length && !e.ariaLabel)"
        ".length"
    )
    assert unnamed == 0
    page.click("#microphone")
    assert wrong == []
    page.close()


def test_a_token_is_asked_for(browser: Any, serve: Callable[..., Running], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("open-sesame\n")
    token.chmod(0o600)
    running = serve(Settings(auth=AuthRules(tokens=(str(token),))))
    page, _, _ = opened(browser, running)
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('token-said').textContent !== ''")
    page.fill("#token", "open-sesame")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('state').textContent.startsWith('ready')")
    page.click("#microphone")
    wait_for(lambda: running.service.calls.running)
    page.close()
    running.close()
