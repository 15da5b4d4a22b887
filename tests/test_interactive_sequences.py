"""The interactive figure of the chapter sequences shows what was decoded at a point."""

import json
import re

import pytest
from conftest import lesson_values

from avi.data import grammar

DATA = lesson_values("sequences", "sequences-steering")
READING = re.compile(r"At z = \((\u2212?\d\.\d), (\u2212?\d\.\d)\): \u201c(.+)\u201d")
AXIS = [-3 + 0.5 * i for i in range(13)]
EVERY = list(enumerate(AXIS))
SAID = {(a, b): DATA["sentences"][13 * i + j] for i, a in EVERY for j, b in EVERY}
SCALE = 270 / 6.5  # units of the drawing for one unit of z


@pytest.fixture(scope="module")
def page(interactive):
    return interactive("sequences", "sequences-steering")


def reading(page) -> tuple[float, float, str]:
    text = page.locator("#sequences-out").inner_text()
    match = READING.fullmatch(text)
    assert match, text
    z1, z2, sentence = match.groups()
    return float(z1.replace("\u2212", "-")), float(z2.replace("\u2212", "-")), sentence


def choose(page, z1: float, z2: float) -> None:
    page.locator("#sequences-z1").fill(str(z1))
    page.locator("#sequences-z2").fill(str(z2))


@pytest.mark.parametrize("z", [(0, 0), (3, -3), (-2.5, 1), (1.5, 2.5), (-3, 3)])
def test_the_sentence_is_the_one_decoded_there(page, z):
    choose(page, *z)
    assert reading(page) == (*z, SAID[z])


def test_different_points_say_different_things():
    assert len(set(DATA["sentences"])) > 5


def test_every_word_belongs_to_the_grammar():
    known = set(grammar.vocabulary().words)
    assert {word for sentence in DATA["sentences"] for word in sentence.split()} <= known


def test_the_letters_stand_at_the_posterior_means(page):
    places = list(zip(DATA["places"][::2], DATA["places"][1::2]))
    want = [(t, *z) for t, z in zip(DATA["topics"], places) if max(map(abs, z)) < 3.25]
    marks = page.locator("#sequences-topics text").evaluate_all(
        "all => all.map((t) => [t.textContent, t.getAttribute('x'), t.getAttribute('y')])"
    )
    assert len(marks) == len(want) > 200
    for (letter, x, y), (topic, z1, z2) in zip(marks, want, strict=True):
        assert letter == "ABCDEFGH"[topic]
        assert (float(x) - 26) / SCALE - 3.25 == pytest.approx(z1, abs=2e-3)
        assert (274 - float(y) + 3) / SCALE - 3.25 == pytest.approx(z2, abs=2e-3)


def test_the_legend_names_every_topic(page):
    text = page.locator("#sequences-legend").inner_text()
    assert text == ", ".join(f"{a} {b}" for a, b in zip("ABCDEFGH", grammar.TOPICS)) + "."


def test_a_press_on_the_plane_chooses_the_nearest_point_of_the_grid(page):
    box = page.locator("#sequences-plane").bounding_box()
    scale = box["width"] / 300
    x, y = 26 + SCALE * (1.1 + 3.25), 274 - SCALE * (-1.9 + 3.25)
    page.mouse.click(box["x"] + x * scale, box["y"] + y * scale)
    assert reading(page) == (1, -2, SAID[1, -2])
    assert float(page.locator("#sequences-z2").input_value()) == -2


def test_a_touch_does_the_same(page):
    choose(page, 0, 0)
    event = """([x, y]) => {
        const plane = document.getElementById("sequences-plane");
        const box = plane.getBoundingClientRect(), scale = box.width / 300;
        const at = { clientX: box.left + x * scale, clientY: box.top + y * scale };
        plane.dispatchEvent(new PointerEvent("pointerdown", { pointerType: "touch", ...at }));
    }"""
    page.evaluate(event, [26 + SCALE * 2.25, 274 - SCALE * 5.25])
    assert reading(page) == (-1, 2, SAID[-1, 2])


def test_arrow_keys_move_the_point(page):
    choose(page, 0.5, 0.5)
    page.locator("#sequences-z1").press("ArrowRight")
    assert reading(page) == (1, 0.5, SAID[1, 0.5])
    circle = page.locator("#sequences-point circle")
    place = [float(circle.get_attribute(name)) for name in ("cx", "cy")]
    assert place == pytest.approx([26 + SCALE * 4.25, 274 - SCALE * 3.75])


def test_fits_a_telephone_and_asks_for_nothing(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []
    assert page.locator("#sequences-out").get_attribute("aria-live") == "polite"
    assert len(json.dumps(DATA)) < 30_000
