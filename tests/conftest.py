"""One torch thread per test process, since parallelism comes from processes; and the browser."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
# A shell's background job ignores Ctrl-C and hands that on; what the tests interrupt must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))


def lesson_values(name, key):
    """What the stored notebook lessons/NAME.ipynb glued as JSON under this key."""
    from book_extension import glued  # it imports Sphinx, which few tests need

    notebook = json.loads((ROOT / f"lessons/{name}.ipynb").read_text(encoding="utf-8"))
    return json.loads(glued(notebook)[key]["application/json"])


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; without one the test is skipped, or fails under REQUIRE_BROWSER=1."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        say = "No Chromium found: install it to test the site (Debian: apt-get install chromium)."
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip)(say)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=SWITCHES)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def interactive(browser):
    """name -> book/_static/interactive/NAME.html in a bare page as wide as a telephone.

    `key` names the values that the stored lesson hands to the figure with `glue(key, JSON(...))`.
    `page.errors` gathers script errors and requests: an interactive figure makes neither.
    """

    def open_figure(name, key=None):
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.errors.append(f"request: {request.url}"))
        figure = (ROOT / f"book/_static/interactive/{name}.html").read_text(encoding="utf-8")
        head = f'<!doctype html><meta charset="utf-8"><title>{name}</title>'
        page.set_content(head + ("" if key is None else values(name, key)) + figure)
        return page

    def values(name, key):
        text = json.dumps(lesson_values(name, key)).replace("<", "\\u003c")
        return f'<script type="application/json" id="{key}">{text}</script>'

    return open_figure
