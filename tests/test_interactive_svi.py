"""The interactive figure of the chapter svi takes the steps of the library, with its numbers."""

import re
from types import SimpleNamespace

import pytest
import torch
from scipy.optimize import minimize

from avi.densities import Gaussian
from avi.families import DiagGaussian
from avi.inference import svi
from avi.steps import Momentum

CLOSE = 6e-4  # three decimals are shown
NUMBER = r"(\u2212?\d+\.\d+)"
READING = re.compile(
    rf"After (\d+) steps: mean {NUMBER}, log variance {NUMBER}; "
    rf"ELBO {NUMBER} nats, {NUMBER} below the optimum\."
)
ZERO = torch.zeros(1, dtype=torch.float64)
MODEL = SimpleNamespace(prior=Gaussian(ZERO, ZERO))  # z ~ N(0, 1); the objective holds the rest
X = torch.full((1, 1), 4.0, dtype=torch.float64)


def count_elbo(model, x, q, eps):
    """x ~ Poisson(exp z): the exact bound, from torch's and the library's own pieces, nats."""
    mean_rate = (q.mean + 0.5 * q.log_var.exp()).exp()
    log_lik = x * q.mean - mean_rate - torch.lgamma(x + 1)
    return log_lik.sum(-1) - q.kl(model.prior)


def library(n_steps: int, lr: float, gamma: float, start: tuple[float, float]):
    """Where `avi.steps.Momentum` ends: (mean, log variance, ELBO)."""
    method = svi(DiagGaussian(1), Momentum(lr, gamma), n_steps, torch.tensor(start).double())
    path = method(MODEL, X, count_elbo, torch.zeros(n_steps + 1, 1, 1, 1).double())
    return *path.lam[-1][0].tolist(), path.value(-1).item()


def bound(lam) -> float:
    q = DiagGaussian(1)(torch.as_tensor(lam, dtype=torch.float64)[None], MODEL)
    return count_elbo(MODEL, X, q, None).item()


BEST = -minimize(lambda lam: -bound(lam), (0.0, 0.0), tol=1e-12).fun


@pytest.fixture(scope="module")
def page(interactive):
    return interactive("svi")


def choose(page, n_steps, lr, gamma, start) -> str:
    for name, value in (("k", n_steps), ("lr", lr), ("gamma", gamma)):
        page.locator(f"#svi-{name}").fill(str(value))
    page.locator("#svi-start").select_option(",".join(f"{entry:g}" for entry in start))
    return page.locator("#svi-out").inner_text()


def numbers(text: str) -> list[float]:
    match = READING.fullmatch(text)
    assert match, text
    return [float(part.replace("\u2212", "-")) for part in match.groups()]


@pytest.mark.parametrize(
    "setting",
    [
        (0, 0.08, 0, (0, 0)),
        (10, 0.08, 0, (0, 0)),
        (50, 0.05, 0.9, (-1.5, 1)),
        (7, 0.3, 0.5, (-2, -3.5)),
        (30, 0.01, 0.7, (2, 1.5)),
    ],
)
def test_the_figure_ends_where_the_library_ends(page, setting):
    mean, log_var, value = library(*setting)
    want = [setting[0], mean, log_var, value, BEST - value]
    assert numbers(choose(page, *setting)) == pytest.approx(want, abs=CLOSE)


def test_the_drawn_path_has_one_point_for_every_iterate(page):
    choose(page, 12, 0.08, 0.7, (0, 0))
    d = page.locator("#svi-path path.path").get_attribute("d")
    points = [tuple(map(float, p.split(","))) for p in d[1:].split("L")]
    assert len(points) == 13
    mean, log_var, _ = library(12, 0.08, 0.7, (0, 0))
    assert points[-1] == pytest.approx(
        (40 + (mean + 2.5) / 5 * 350, 280 - (log_var + 4) / 6 * 272), abs=0.06
    )


def test_the_level_lines_are_the_bound_s(page):
    drops = (50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.05)
    for drop, line in zip(drops, page.locator("#svi-levels path").all(), strict=True):
        first = line.get_attribute("d")[1:].split("L")[0]
        x, y = map(float, first.split(","))
        lam = ((x - 40) / 350 * 5 - 2.5, (280 - y) / 272 * 6 - 4)
        assert BEST - bound(lam) == pytest.approx(drop, rel=0.02, abs=0.002)


def test_a_step_size_that_is_too_large_is_called_divergence(page):
    assert choose(page, 50, 0.6, 0.0, (2, 1.5)).startswith("Diverged: step 1 ")
    mean, log_var, _ = library(1, 0.6, 0.0, (2, 1.5))
    assert max(abs(mean), abs(log_var)) > 50


def test_arrow_keys_take_one_step_more(page):
    choose(page, 3, 0.08, 0.0, (0, 0))
    page.locator("#svi-k").press("ArrowRight")
    shown = numbers(page.locator("#svi-out").inner_text())
    assert shown[:3] == pytest.approx([4, *library(4, 0.08, 0.0, (0, 0))[:2]], abs=CLOSE)


def test_fits_a_telephone_and_asks_for_nothing(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []
    assert page.locator("#svi-out").get_attribute("aria-live") == "polite"
