"""The built site, every page of it, in a browser that can reach no other host.

The book is built once, from the notebooks stored in lessons/. All site tests stand in this file,
so that `--dist loadfile` gives them to one process and the book is built by one.
"""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

import build as build_tool  # noqa: E402
from store import Project  # noqa: E402

PAGES = [*Project().pages(), "search", "genindex"]
WIDE, NARROW = 1280, 390

# Everything below runs in the page. Formulas and code are taken out before raw markup is sought.
TYPESET = "async () => { if (window.MathJax) await MathJax.startup.promise }"
LOOK = """() => {
  const article = document.querySelector("article") || document.body;
  const prose = article.cloneNode(true);
  prose.querySelectorAll("pre, code, script, style, mjx-container, .interactive")
    .forEach(node => node.remove());
  const raw = /\\\\\\(|\\\\\\[|\\$[^$\\s][^$\\n]*\\$|\\{\\{|\\}\\}|\\{(eq|ref|cite|numref|glue)/;
  const faults = [];
  const found = prose.textContent.match(raw);
  if (found) faults.push("raw markup: " + prose.textContent.substr(found.index, 60));
  for (const node of document.querySelectorAll(".math"))
    if (!node.querySelector("mjx-container")) faults.push("not typeset: " + node.textContent);
  for (const node of document.querySelectorAll("mjx-merror, [data-mjx-error]"))
    faults.push("error in a formula: " + node.textContent);
  for (const image of document.querySelectorAll("img")) {
    if (!image.complete || !image.naturalWidth) faults.push("broken image " + image.src);
    const alt = image.getAttribute("alt") || "";
    if (alt.trim().length < 5 || /[.](png|svg|jpe?g)$/.test(alt))
      faults.push("no words for image " + image.src);
  }
  if (window.innerWidth > 1000)
    for (const formula of document.querySelectorAll("mjx-container[display=true]"))
      if (formula.scrollWidth > formula.clientWidth + 4)
        faults.push("formula wider than its column: " + formula.closest("div.math")?.id);
  const width = document.documentElement.scrollWidth;
  if (width > window.innerWidth + 1) faults.push(`${width} px wide on ${window.innerWidth}`);
  return faults;
}"""
# WCAG contrast of text against the nearest background that is not transparent.
CONTRAST = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = node => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length && (colour.length < 4 || colour[3] === 1)) return colour;
    }
    return [255, 255, 255];
  };
  const faults = [];
  const nodes = document.querySelectorAll("article :is(p, li, td, th, h1, h2, h3, figcaption, " +
    "a, label, output, button, mjx-container, code, span)");
  for (const node of nodes) {
    const own = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
    if (!own && node.tagName !== "MJX-CONTAINER" || node.closest("svg, .headerlink, .sr-only"))
      continue;
    if (!node.getClientRects().length || node.classList.contains("headerlink")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faults.push(ratio.toFixed(1) + ": " + node.textContent.trim().slice(0, 40));
  }
  return faults;
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    return build_tool.build(Project(), stored=True, to=tmp_path_factory.mktemp("site")).parent


def visit(browser, path, width=WIDE, scheme="light"):
    """Open a page, every other host blocked: (page, what went wrong while loading)."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.route(re.compile("^(?!file:|data:|blob:)"), lambda route: route.abort())
    page, faults = context.new_page(), []
    page.on("console", lambda m: m.type == "error" and faults.append(f"console: {m.text}"))
    page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
    page.on("requestfailed", lambda request: faults.append(f"request failed: {request.url}"))
    page.on("request", lambda request: local(request.url) or faults.append(f"asks {request.url}"))
    page.goto(path.as_uri(), wait_until="load")
    page.evaluate(TYPESET)
    return page, faults


def local(url):
    return url.startswith(("file:", "data:", "blob:"))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_whole_typeset_and_no_wider_than_the_screen(site, browser, name):
    for width in (WIDE, NARROW):
        page, faults = visit(browser, site / f"{name}.html", width)
        assert faults + page.evaluate(LOOK) == [], f"at {width} px"
        page.context.close()


def test_the_top_of_the_folder_leads_to_the_first_page(site, browser):
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/book/index.html", timeout=10_000)
    assert "Closing the Amortization Gap" in page.inner_text("h1")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", Project().pages())
def test_text_is_legible_in_light_and_dark(site, browser, name, scheme):
    page, _ = visit(browser, site / f"{name}.html", scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate(CONTRAST) == []
    page.context.close()


def test_there_is_one_search_box_one_title_and_a_footer_with_the_holder(site, browser):
    page, _ = visit(browser, site / "book" / "index.html")
    visible = "nodes => nodes.filter(node => node.checkVisibility()).length"
    assert page.eval_on_selector_all(".search-button, .search-button-field", visible) == 1
    assert page.eval_on_selector_all("header", visible) <= 1
    assert page.locator("h1:visible").count() == 1
    year = re.search(r"Copyright.*?(\d{4})", (ROOT / "LICENSE").read_text(encoding="utf-8"))[1]
    footer = page.inner_text("footer.bd-footer-content")
    assert "the authors of Closing the Amortization Gap" in footer and f"Copyright {year}" in footer
    page.context.close()


def test_the_search_finds_a_word_without_a_server(site, browser):
    page, faults = visit(browser, Path(f"{site}/search.html"))
    page.goto(f"{(site / 'search.html').as_uri()}?q=perplexity")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    assert "Units" in page.inner_text("#search-results")
    assert faults == []
    page.context.close()


def test_no_file_of_the_site_loads_anything_from_another_host(site):
    asks = re.compile(
        r"<(?:script|link|img|iframe|source|video)[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+"
        r"|@import[^;]*//[^;]*|url\([\"']?(?:https?:)?//[^)]+"
    )
    faults = [
        f"{path.relative_to(site)}: {found[0]}"
        for path in [*site.rglob("*.html"), *site.rglob("*.css")]
        for found in asks.finditer(path.read_text(encoding="utf-8"))
    ]
    assert faults == []


def test_the_checks_of_a_page_find_what_they_are_there_for(site, browser, tmp_path):
    """A page with one fault of each kind, opened like the others."""
    page = tmp_path / "faulty.html"
    page.write_text(
        "<article><p>See \\(x^2\\)</p><span class='math'>\\(y\\)</span>"
        "<img src='none.png' alt='a missing picture'><img src='data:,' alt='x.png'>"
        "<p style='color: #aaa'>pale</p><div style='width: 5000px'>wide</div></article>"
        "<script src='https://example.org/x.js'></script><script>throw Error('oops')</script>"
        "<script>console.error('a complaint')</script>"
    )
    opened, faults = visit(browser, page)
    said = "\n".join(faults + opened.evaluate(LOOK) + opened.evaluate(CONTRAST))
    for fault in (
        "raw markup", "not typeset", "broken image", "no words for image", "px wide",
        "asks https://example.org/x.js", "request failed", "oops", "console: a complaint", "pale",
    ):  # fmt: skip
        assert fault in said, fault
    opened.context.close()
