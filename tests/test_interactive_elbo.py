"""The interactive figure of the chapter elbo shows what the library computes."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize

from avi.core import expect
from avi.densities import Gaussian
from avi.families import DiagGaussian
from avi.objectives import distortion, log_ratio, rate

CLOSE = 6e-4  # three decimals are shown
NUMBER = r"(\u2212?\d+\.\d+)"
READING = re.compile(
    rf"log p\(x\) {NUMBER} = ELBO {NUMBER} \+ KL {NUMBER} nats; "
    rf"\u2212ELBO = rate {NUMBER} \+ distortion {NUMBER}\."
)


def log_lik(x, z):
    return Gaussian(z.square() + z / 2, z.new_tensor(0.16).log()).log_prob(x)


ZERO = torch.zeros(1, dtype=torch.float64)
PRIOR = Gaussian(ZERO, ZERO)
MODEL = SimpleNamespace(prior=PRIOR, log_prior=PRIOR.log_prob, log_lik=log_lik)
X = torch.ones(1, 1, dtype=torch.float64)


def log_joint(z: float) -> float:
    z = torch.tensor([[[z]]], dtype=torch.float64)
    return (log_lik(X, z) + PRIOR.log_prob(z)).item()


LOG_P = math.log(quad(lambda z: math.exp(log_joint(z)), -6, 6, limit=400, points=(-1.2, 0.75))[0])


def library(mean: float, sd: float) -> dict[str, float]:
    """The same values from the library's draw, with Gauss-Hermite nodes for noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)  # exact: the log joint is quartic
    lam = torch.tensor([[mean, 2 * math.log(sd)]], dtype=torch.float64)
    draw = DiagGaussian(1)(lam, MODEL).draw(torch.from_numpy(nodes).view(-1, 1, 1))
    draw = draw._replace(log_w=torch.from_numpy(weights / weights.sum()).log()[:, None])
    elbo = expect(draw.log_w, log_ratio(MODEL, X, draw)).item()
    parts = {"rate": rate(MODEL, draw).item(), "distortion": distortion(MODEL, X, draw).item()}
    return {"log_p": LOG_P, "elbo": elbo, "kl": LOG_P - elbo, **parts}


@pytest.fixture(scope="module")
def page(interactive):
    return interactive("elbo")


def shown(page) -> dict[str, float]:
    match = READING.fullmatch(page.locator("#elbo-out").inner_text())
    numbers = [float(text.replace("\u2212", "-")) for text in match.groups()]
    return dict(zip(("log_p", "elbo", "kl", "rate", "distortion"), numbers, strict=True))


def assert_shows(page, mean: float, sd: float) -> None:
    for name, value in library(mean, sd).items():
        assert shown(page)[name] == pytest.approx(value, abs=CLOSE), name


def set_sliders(page, mean: float, sd: float) -> None:
    for name, value in (("mean", mean), ("sd", sd)):
        page.locator(f"#elbo-{name}").fill(str(value))


def sliders(page) -> tuple[float, float]:
    return tuple(float(page.locator(f"#elbo-{name}").input_value()) for name in ("mean", "sd"))


@pytest.mark.parametrize("mean, sd", [(0, 1), (0.68, 0.215), (-1.15, 0.22), (1.5, 0.4), (-3, 2)])
def test_sliders_show_the_library_values(page, mean, sd):
    set_sliders(page, mean, sd)
    assert sliders(page) == (mean, sd)
    assert_shows(page, mean, sd)


@pytest.mark.parametrize("button, start", [("best", (0.7, 0.3)), ("other", (-1.2, 0.3))])
def test_buttons_jump_to_the_two_optima(page, button, start):
    found = minimize(
        lambda v: -library(v[0], math.exp(v[1]))["elbo"], (start[0], math.log(start[1])),
        method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9},
    ).x  # fmt: skip
    page.locator(f"#elbo-{button}").click()
    assert sliders(page) == pytest.approx((found[0], math.exp(found[1])), abs=0.0055)
    assert_shows(page, *sliders(page))


def test_best_is_the_better_optimum(page):
    page.locator("#elbo-other").click()
    other = shown(page)["elbo"]
    page.locator("#elbo-best").click()
    assert shown(page)["elbo"] > other + 0.1


def test_arrow_keys_move_q(page):
    page.locator("#elbo-prior").click()
    page.locator("#elbo-mean").press("ArrowRight")
    assert sliders(page) == (0.01, 1)
    assert_shows(page, 0.01, 1)


def test_bars_are_as_long_as_their_nats(page):
    set_sliders(page, 0.68, 0.215)
    widths = [float(r.get_attribute("width")) for r in page.locator("#elbo-bars rect").all()]
    value, per_nat = library(0.68, 0.215), 372 / 8
    want = [-LOG_P, value["kl"], value["rate"], value["distortion"]]
    assert widths == pytest.approx([nats * per_nat for nats in want], abs=0.05)


def test_fits_a_telephone_and_asks_for_nothing(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []
    assert page.locator("#elbo-out").get_attribute("aria-live") == "polite"
