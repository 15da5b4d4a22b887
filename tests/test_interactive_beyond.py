"""The interactive figure of the chapter beyond: its closed forms against dense Gaussian algebra."""

import math
import re

import pytest
import torch
from equations.beyond import decoder, encoder
from torch.distributions import MultivariateNormal, kl_divergence

NUMBER = r"(\u2212?\d+\.\d+)"
READING = re.compile(
    rf"With (\d+) steps on data of variance {NUMBER}: {NUMBER} nats lost\. "
    rf"The model misses the data by {NUMBER}, the bound misses the model by {NUMBER}\."
)
CLOSE = 6e-5  # four decimals are shown


def dense(n_steps: int, c0: float) -> list[float]:
    """The same from two Gaussians over the whole chain, and from their first coordinates."""
    beta = torch.full((n_steps,), 1 - math.exp(-6 / n_steps)).double()
    joint = encoder(c0, beta), decoder(c0, beta)
    first = [
        MultivariateNormal(torch.zeros(1).double(), one.covariance_matrix[:1, :1]) for one in joint
    ]
    total, misfit = (kl_divergence(*pair).item() for pair in (joint, first))
    return [n_steps, c0, total, misfit, total - misfit]


@pytest.fixture(scope="module")
def page(interactive):
    return interactive("beyond")


def numbers(page) -> list[float]:
    text = page.locator("#beyond-out").inner_text()
    match = READING.fullmatch(text)
    assert match, text
    return [float(part.replace("\u2212", "-")) for part in match.groups()]


def choose(page, n_steps: int, c0: float) -> None:
    page.locator("#beyond-steps").fill(str(n_steps))
    page.locator("#beyond-variance").fill(str(c0))


@pytest.mark.parametrize(
    ("n_steps", "c0"), [(1, 0.2), (2, 0.05), (10, 0.2), (37, 4.0), (100, 1.0), (200, 0.5)]
)
def test_the_figure_agrees_with_dense_gaussians(page, n_steps, c0):
    choose(page, n_steps, c0)
    assert numbers(page) == pytest.approx(dense(n_steps, c0), abs=CLOSE)


def test_the_mark_stands_on_the_line(page):
    choose(page, 10, 0.2)
    mark = page.locator("#beyond-now circle")
    x, y = (float(mark.get_attribute(name)) for name in ("cx", "cy"))
    assert x == pytest.approx(52 + 336 * math.log(10) / math.log(200), abs=0.06)
    top = 1.15 * max(dense(1, 0.2)[2], 0.01)
    assert y == pytest.approx(202 - 190 * dense(10, 0.2)[2] / top, abs=0.2)
    drawn = page.locator("#beyond-total").get_attribute("d")
    points = [tuple(map(float, p.split(","))) for p in re.split("[ML]", drawn)[1:]]
    assert min(math.hypot(x - a, y - b) for a, b in points) < 4


def test_arrow_keys_move_the_steps(page):
    choose(page, 10, 0.2)
    page.locator("#beyond-steps").press("ArrowRight")
    assert numbers(page) == pytest.approx(dense(11, 0.2), abs=CLOSE)


def test_fits_a_telephone_and_asks_for_nothing(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []
    assert page.locator("#beyond-out").get_attribute("aria-live") == "polite"
