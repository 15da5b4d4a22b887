"""The interactive figure of the chapter vae decodes what the library decodes, with its weights."""

import json
import math
import re

import pytest
import torch
from conftest import lesson_values

from avi.models import bernoulli_mlp

DATA = lesson_values("vae", "vae-plane")
NUMBER = r"(\u2212?\d+\.\d+)"
READING = re.compile(
    rf"At z = \({NUMBER}, {NUMBER}\): {NUMBER} of (\d+) pixels inked on average; "
    rf"log p\(z\) {NUMBER}\. Nearest of (\d+) held-out digits: a (\d), {NUMBER} away\."
)
CLOSE = 6e-3  # two decimals are shown


def decoder():
    """The library's model with the glued weights, in float64 as the page computes."""
    hidden, pixels = len(DATA["0.bias"]), len(DATA["2.bias"])
    model = bernoulli_mlp((2, hidden, pixels)).double()
    state = model.decoder.state_dict()
    values = {k: torch.tensor(DATA[k]).double().view_as(v) for k, v in state.items()}
    model.decoder.load_state_dict(values)
    return model


MODEL = decoder()
PLACES = torch.tensor(DATA["places"]).view(-1, 2).double()


def library(z1: float, z2: float):
    """Pixel means [X] at one z, and the numbers the figure writes."""
    z = torch.tensor([[[z1, z2]]], dtype=torch.float64)
    pixels = MODEL.predict(z)[0, 0]
    distance = (PLACES - z[0]).norm(dim=1)
    near = int(distance.argmin())
    numbers = [z1, z2, pixels.sum().item(), len(pixels), MODEL.log_prior(z).item()]
    return pixels, [*numbers, len(PLACES), DATA["digits"][near], distance[near].item()]


@pytest.fixture(scope="module")
def page(interactive):
    return interactive("vae", "vae-plane")


def numbers(page) -> list[float]:
    text = page.locator("#vae-out").inner_text()
    match = READING.fullmatch(text)
    assert match, text
    return [float(part.replace("\u2212", "-")) for part in match.groups()]


def choose(page, z1: float, z2: float) -> None:
    page.locator("#vae-z1").fill(str(z1))
    page.locator("#vae-z2").fill(str(z2))


@pytest.mark.parametrize("z", [(0, 0), (1.25, -0.6), (-2.4, 0.35), (3, 3), (-0.05, -2.95)])
def test_the_figure_decodes_as_the_library_does(page, z):
    choose(page, *z)
    pixels, want = library(*z)
    assert numbers(page) == pytest.approx(want, abs=CLOSE)
    shown = page.locator("#vae-pixels rect").evaluate_all(
        "all => all.map((pixel) => Number(pixel.getAttribute('fill-opacity')))"
    )
    assert shown == pytest.approx(pixels.tolist(), abs=6e-5)


def test_pixels_stand_row_by_row(page):
    choose(page, 0, 0)
    width = math.isqrt(len(DATA["2.bias"]))
    corner = page.locator("#vae-pixels rect").nth(width + 2)
    place = [float(corner.get_attribute(name)) for name in ("x", "y", "width")]
    assert place == pytest.approx([2 * 160 / width, 160 / width, 160 / width])


def test_every_held_out_digit_on_the_plane_is_drawn_where_the_encoder_puts_it(page):
    inside = (PLACES.abs() < 3).all(1)
    marks = page.locator("#vae-digits text").evaluate_all(
        "all => all.map((t) => [t.textContent, t.getAttribute('x'), t.getAttribute('y')])"
    )
    want = [(str(d), *z) for d, z, keep in zip(DATA["digits"], PLACES.tolist(), inside) if keep]
    assert len(marks) == len(want) > 200
    for (digit, x, y), (wanted, z1, z2) in zip(marks, want, strict=True):
        assert digit == wanted
        assert (float(x) - 26) / 45 - 3 == pytest.approx(z1, abs=2e-3)
        assert (274 - float(y) + 3) / 45 - 3 == pytest.approx(z2, abs=2e-3)


def test_a_press_on_the_plane_moves_both_sliders(page):
    box = page.locator("#vae-plot").bounding_box()
    scale = box["width"] / 300
    page.mouse.click(box["x"] + (26 + 45 * 4) * scale, box["y"] + (274 - 45 * 1.5) * scale)
    z1, z2, *_ = shown = numbers(page)
    assert (z1, z2) == pytest.approx((1.0, -1.5), abs=0.051)
    assert shown == pytest.approx(library(z1, z2)[1], abs=CLOSE)
    assert float(page.locator("#vae-z1").input_value()) == pytest.approx(z1)


def test_a_touch_does_the_same(page):
    choose(page, 0, 0)
    event = """([x, y]) => {
        const plot = document.getElementById("vae-plot"), box = plot.getBoundingClientRect();
        const scale = box.width / 300;
        const at = { clientX: box.left + x * scale, clientY: box.top + y * scale };
        plot.dispatchEvent(new PointerEvent("pointerdown", { pointerType: "touch", ...at }));
    }"""
    page.evaluate(event, [26 + 45 * 2, 274 - 45 * 5])
    assert numbers(page)[:2] == pytest.approx((-1.0, 2.0), abs=0.051)


def test_arrow_keys_move_the_point(page):
    choose(page, 0.5, 0.5)
    page.locator("#vae-z2").press("ArrowLeft")
    assert numbers(page) == pytest.approx(library(0.5, 0.45)[1], abs=CLOSE)
    circle = page.locator("#vae-point circle")
    place = [float(circle.get_attribute(name)) for name in ("cx", "cy")]
    assert place == pytest.approx([26 + 45 * 3.5, 274 - 45 * 3.45])


def test_the_data_are_small_and_for_the_page_s_own_images():
    assert len(json.dumps(DATA)) < 30_000
    assert len(DATA["2.bias"]) == 64 and len(DATA["digits"]) == len(PLACES) == 250


def test_fits_a_telephone_and_asks_for_nothing(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []
    assert page.locator("#vae-out").get_attribute("aria-live") == "polite"
